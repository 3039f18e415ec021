"""Which mask image belongs to which image: by folders of usual names, and by prefixes and suffixes of the masks' names.

Layouts: folders of images and of masks next to each other or one in the other, also one pair for each split
(`train/images`, `train/masks`), in a folder or a tar; masks next to their images (`a.jpg`, `a_mask.png`); any two folders.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from shardlens.pipeline.annotations.pairing import Layout, stem
from shardlens.pipeline.annotations.places import IMAGE_SUFFIXES, Listing, is_tar, listing_of
from shardlens.pipeline.annotations.problems import Problems
from shardlens.pipeline.annotations.source import Request
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.executors.base import Executor

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".jpg", ".jpeg")
IMAGE_FOLDERS = {"images", "image", "imgs", "img", "jpegimages", "pngimages", "photos", "pictures"}
MASK_FOLDERS = (
    *("masks", "mask", "labels", "label", "labelmaps", "annotations", "annotation", "annots", "annot", "gt", "gts"),
    *("groundtruth", "ground_truth", "segmentation", "segmentations", "segs", "seg", "segmentationclass", "pedmasks"),
    *("segmentationobject", "instances", "instance"),
)
"""Of several folders that pair as many images, the first is taken: classes rather than instances."""
AFFIXES = (
    *(
        "{stem}",
        "{stem}_mask",
        "{stem}-mask",
        "{stem}.mask",
        "{stem}_masks",
        "{stem}_cp_masks",
        "mask_{stem}",
        "mask-{stem}",
    ),
    *("{stem}_instance", "{stem}_instances", "{stem}_instanceids", "{stem}_seg", "{stem}.seg", "seg_{stem}"),
    *(
        "{stem}_segmentation",
        "{stem}_label",
        "{stem}_labels",
        "label_{stem}",
        "{stem}_labelids",
        "{stem}_gt",
        "gt_{stem}",
    ),
    *("{stem}_annotation", "{stem}_matte", "{stem}_truth", "{stem}_l"),
)
"""Names that masks usually have, in lower case; the first that pairs the most images is taken."""
TELLING = AFFIXES[1:-1]
"""Those that distinguish a mask from an image in the same folder."""
IMAGE_AFFIXES = ("{stem}", "{stem}_image", "{stem}_img", "image_{stem}", "img_{stem}", "{stem}_sat", "{stem}_rgb")
SAMPLE = 200
"""Images by which the affix is chosen."""


@dataclass(frozen=True)
class Spot:
    """Where a file lies in a layout."""

    split: str
    folder: str
    """The folder of masks that it lies in; "" for an image."""
    key: str
    """Its name without the folders of images and masks, and without suffix."""


def spot(name: str) -> Spot | None:
    """Where `[<folders>/]images/...` or `[<folders>/]masks/...` lies; None for files elsewhere."""
    *folders, last = name.split("/")
    lower = [folder.lower() for folder in folders]
    marks = [i for i, folder in enumerate(lower) if folder in IMAGE_FOLDERS or folder in MASK_FOLDERS]
    if not marks:
        return None
    mask = next((lower[i] for i in reversed(marks) if lower[i] in MASK_FOLDERS), "")
    key = stem("/".join([*(folder for i, folder in enumerate(folders) if i not in marks), last]))
    return Spot(folders[marks[0] - 1] if marks[0] else "", mask, key)


def layout_of(request: Request, executor: Executor, problems: Problems) -> Layout:
    """Images and masks of a request, each mask with the key of its image.

    Raises:
        DatasetError: there are no images, or no masks, or no such split.
    """
    if request.annotations is not None and request.annotations != request.images:
        masks = request.catalog.listing(request.annotations, MASK_SUFFIXES, executor)
        theirs = set(masks.places)
        images = request.catalog.images(request.images, executor)
        others = listing_of(
            images.root, (row for row in zip(images.names, images.places, strict=True) if row[1] not in theirs)
        )
        if images.names and not others.names:
            raise DatasetError(
                f"all {len(images.names)} images below {request.images} lie below {request.annotations} too, and were taken "
                "for masks: give the folder of the masks alone with --annotations, or only the folder above both with --images"
            )
        layout = Layout(others, masks, split=request.split)
    else:
        files = request.catalog.images(request.images, executor)
        layout = _in_folders(files, request.split) or _side_by_side(files, request) or _nothing(files)
    return matched(layout, request.mask_pattern, problems)


def folders_hold_masks(files: Listing) -> str | None:
    """Why folders of images and masks lie there, in words; None if none do."""
    layout = _in_folders(files, None)
    if layout is None:
        return None
    folder = next(name for name in layout.sidecars.names).rpartition("/")[0]
    return f"{folder}/ in {files.root} holds mask images"


def names_hold_masks(files: Listing) -> str | None:
    """Why masks lie next to their images, in words; None if not so for half of the images."""
    images = files.only(lambda name: name.lower().endswith(IMAGE_SUFFIXES))
    keys = {stem(name) for name in images.names}
    for affix in TELLING:
        masks = {key for key in keys if (bare := _unaffixed(key, affix)) in keys and bare != key}
        if masks and 3 * len(masks) >= len(keys):
            return f"{len(masks)} files in {files.root} are named {affix} as masks of others"
    return None


def _in_folders(files: Listing, wanted: str | None) -> Layout | None:
    """Images and masks by the usual names of their folders; a folder above them is the split."""
    spots = {name: place for name in files.names if (place := spot(name)) is not None}
    images = {place.key: name for name, place in spots.items() if not place.folder}
    folders = {place.folder for place in spots.values() if place.folder}
    pairs = {folder: sum(_paired(p, images) for p in spots.values() if p.folder == folder) for folder in folders}
    if not images or not folders:
        return None
    folder = max(sorted(folders), key=lambda name: (pairs[name], -MASK_FOLDERS.index(name)))
    chosen = {name: place for name, place in spots.items() if place.folder in {"", folder}}
    splits = {place.split for place in chosen.values()} - {""}
    if is_tar(files.root) and len(splits) == 1 and not splits & {"train", "val", "test"}:
        splits = set()  # tars are often made of one folder
    if wanted is not None and splits and wanted not in splits:
        raise DatasetError(
            f"{files.root} has no split {wanted!r}: expected one of its folders {', '.join(sorted(splits))}"
        )
    kept = {n: place for n, place in chosen.items() if wanted is None or not splits or place.split == wanted}
    return Layout(
        files.only(lambda name: name in kept and not kept[name].folder),
        files.only(lambda name: name in kept and bool(kept[name].folder)),
        keys={name: place.key for name, place in kept.items()},
        splits={name: place.split for name, place in kept.items() if place.split in splits},
        split=wanted,
    )


def _paired(mask: Spot, images: Mapping[str, str]) -> bool:
    return mask.key in images or any(_unaffixed(mask.key, affix) in images for affix in AFFIXES[1:])


def _side_by_side(files: Listing, request: Request) -> Layout | None:
    """Masks next to their images, by the pattern of their names."""
    keys = {stem(name) for name in files.names}
    affixes = [request.mask_pattern] if request.mask_pattern else list(TELLING)
    by_affix = [
        {name for name in files.names if (key := _unaffixed_name(name, affix)) in keys and key != stem(name)}
        for affix in affixes
    ]
    masks = max(by_affix, key=len)
    if not masks:
        return None
    return Layout(files.only(lambda name: name not in masks), files.only(masks.__contains__), split=request.split)


def _nothing(files: Listing) -> Layout:
    spots = [place for name in files.names if (place := spot(name)) is not None]
    masks = sum(bool(place.folder) for place in spots)
    raise DatasetError(
        f"{files.root} holds {len(spots) - masks} images in folders named images and {masks} in folders named masks: "
        "expected both, or masks named after their images (--mask-pattern), or give the folder of the masks with --annotations"
    )


def matched(layout: Layout, pattern: str | None, problems: Problems) -> Layout:
    """Give the masks the keys of their images: by `pattern`, or by the usual affix that pairs the most images.

    Raises:
        DatasetError: no mask's name matches `pattern`.
    """
    images = {name: layout.key(name) for name in layout.images.names}
    masks = {name: layout.key(name) for name in layout.sidecars.names}
    if pattern is not None:
        keys = {name: key for name in masks if (key := _unaffixed_name(name, pattern, masks[name])) is not None}
        if masks and not keys:
            first = next(iter(masks))
            raise DatasetError(
                f"none of the {len(masks)} masks is named as --mask-pattern {pattern} says; one is {first}"
            )
        return replace(layout, keys={**layout.keys, **images, **keys})
    ours, theirs = _affixes(images, masks)
    if (ours, theirs) == (IMAGE_AFFIXES[0], AFFIXES[0]):
        return layout
    problems.note(f"masks are paired by their names: {theirs} is the mask of {ours}")
    image_keys = {name: _unaffixed(key, ours) or key for name, key in images.items()}
    return replace(layout, keys={**image_keys, **{name: _unaffixed(key, theirs) or key for name, key in masks.items()}})


def _affixes(images: Mapping[str, str], masks: Mapping[str, str]) -> tuple[str, str]:
    """The affixes of images and masks that pair the most images; without any where that pairs as many."""
    step = max(1, len(images) // SAMPLE)
    sample = [key for i, key in enumerate(images.values()) if i % step == 0]
    best, most = (IMAGE_AFFIXES[0], AFFIXES[0]), 0
    by_affix = {theirs: {_unaffixed(key, theirs) for key in masks.values()} for theirs in AFFIXES}
    for ours in IMAGE_AFFIXES:
        keys = [key for name in sample if (key := _unaffixed(name, ours)) is not None]
        for theirs, there in by_affix.items():
            count = sum(key in there for key in keys)
            if count > most:
                best, most = (ours, theirs), count
    return best


def _unaffixed(key: str, affix: str) -> str | None:
    """The key without the affix of its last component; None if it has it not."""
    folder, last = posixpath.split(key)
    before, after = affix.split("{stem}")
    lower, inside = last.lower(), len(last) - len(before) - len(after)
    if inside < 1 or not (lower.startswith(before.lower()) and lower.endswith(after.lower())):
        return None
    return posixpath.join(folder, last[len(before) : len(last) - len(after)])


def _unaffixed_name(name: str, pattern: str, key: str | None = None) -> str | None:
    """The key of the image whose mask is called `name` after `pattern`, which may name the suffix, too."""
    folder = posixpath.dirname(stem(name) if key is None else key)
    last = posixpath.basename(name)
    after = pattern.partition("{stem}")[2]
    has_suffix = re.search(r"\.[A-Za-z0-9]+$", after) is not None and after.lower().endswith(IMAGE_SUFFIXES)
    text = last if has_suffix else stem(last)
    return _unaffixed(posixpath.join(folder, text), pattern)


def is_named_instance(name: str) -> bool:
    """Whether a mask's name ends as masks of instances do."""
    return re.search(r"[_.-]inst(ance)?(_?ids)?s?$", stem(posixpath.basename(name)).lower()) is not None
