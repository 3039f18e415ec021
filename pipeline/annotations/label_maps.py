"""Mask images beside the images: a pixel holds its class id (semantic) or its object's id (instance), 0 = background.

Layouts: `images/` and `masks/` in one folder or tar, or in a folder for each split (`train/images`, `train/masks`);
or any two folders. An image and its mask have the same name, suffix aside.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from shardlens.pipeline import masks, storage
from shardlens.pipeline.annotations import places
from shardlens.pipeline.annotations.categories import ById, table
from shardlens.pipeline.annotations.pairing import Layout, pair, stem
from shardlens.pipeline.annotations.places import Listing
from shardlens.pipeline.annotations.problems import Problems
from shardlens.pipeline.annotations.source import (
    Categorized,
    MaskKind,
    Parsed,
    Request,
    Source,
    annotation_row,
    bbox_struct,
)
from shardlens.pipeline.errors import ConfigError, DatasetError
from shardlens.pipeline.executors.base import Executor
from shardlens.pipeline.images.header import probe
from shardlens.pipeline.warehouse import tables

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
VOID = 255
PIXELS = 100_000_000
"""Pixels of the largest mask that is opened."""
DEEP = ("I", "F")
"""Pillow's modes of more than 8 bits begin so."""


def read(request: Request, executor: Executor) -> Source:
    """Pair images and masks, and tell from the first mask what its pixels are, where `mask_kind` does not."""
    problems = Problems()
    layout = _layout(request, executor)
    listed = pair(layout, problems)
    kind = _kind(request.mask_kind, listed)
    if kind == "instance" and len(request.classes) > 1:
        raise ConfigError(
            f"instance masks hold no classes, and {len(request.classes)} names were given with --classes: "
            "expected one at most; if the pixels are class ids say --mask-kind semantic"
        )
    categorize = ById(table(request.classes or ("object",))) if kind == "instance" else ByValue(request.classes)
    empty = tables.from_rows([], tables.ANNOTATIONS)
    return Source(listed, empty, categorize, MaskParser(kind), has_category_ids=True, problems=problems)


def _layout(request: Request, executor: Executor) -> Layout:
    if request.annotations is not None and request.annotations != request.images:
        images = places.images(request.images, executor)
        return Layout(images, places.listing(request.annotations, MASK_SUFFIXES, executor), split=request.split)
    return _split(places.images(request.images, executor), request.split)


@dataclass(frozen=True)
class _Spot:
    """Where a file stands in a layout."""

    split: str
    is_mask: bool
    key: str


def _spot(name: str) -> _Spot | None:
    """Split, side and key of `[<folders>/]images/...` and `[<folders>/]masks/...`; None for other files."""
    parts = name.split("/")
    for at, part in enumerate(parts[:-1]):
        if part in {"images", "masks"}:
            return _Spot(parts[at - 1] if at else "", part == "masks", stem("/".join([*parts[:at], *parts[at + 1 :]])))
    return None


def _split(files: Listing, wanted: str | None) -> Layout:
    """Tell images from masks by their folders; a folder above them is the split."""
    found = [
        (name, place, spot) for name, place in zip(files.names, files.places, strict=True) if (spot := _spot(name))
    ]
    splits = {spot.split for _, _, spot in found} - {""}
    if places.is_tar(files.root) and len(splits) == 1 and not splits & {"train", "val", "test"}:
        splits = set()  # tars are often made of one folder
    if wanted is not None and splits and wanted not in splits:
        raise DatasetError(
            f"{files.root} has no split {wanted!r}: expected one of its folders {', '.join(sorted(splits))}"
        )
    chosen = [row for row in found if wanted is None or not splits or row[2].split == wanted]
    images = [(name, place) for name, place, spot in chosen if not spot.is_mask]
    sidecars = [(name, place) for name, place, spot in chosen if spot.is_mask]
    if not images or not sidecars:
        raise DatasetError(
            f"{files.root} holds {len(images)} images in folders named images and {len(sidecars)} in folders named masks: "
            "expected both, or give the folder of the masks with --annotations"
        )
    return Layout(
        _listing(files.root, images),
        _listing(files.root, sidecars),
        keys={name: spot.key for name, _, spot in chosen},
        splits={name: spot.split for name, _, spot in chosen if spot.split in splits},
        split=wanted,
    )


def _listing(root: str, rows: Sequence[tuple[str, places.Place]]) -> Listing:
    return Listing(root, tuple(name for name, _ in rows), tuple(place for _, place in rows))


def _kind(wanted: MaskKind, listed: pa.Table) -> Literal["semantic", "instance"]:
    """Tell the kind: pixels of 16 bits and more are instance ids, of 8 bits, of 1 bit and palettes class ids."""
    if wanted != "auto":
        return wanted
    first = listed.filter(pc.is_valid(listed["sidecar_uri"])).slice(0, 1).to_pylist()[0]
    uri, offset, length = first["sidecar_uri"], first["sidecar_offset"], first["sidecar_length"]
    data = storage.read(uri) if offset is None else storage.read_range(uri, offset, length)
    with _open(data, uri) as image:
        return "instance" if image.mode.startswith(DEEP) else "semantic"


def _open(data: bytes, where: str) -> Image.Image:
    width, height = probe(data)
    if width * height > PIXELS:
        raise DatasetError(f"{where}: a mask of {width} x {height} pixels, expected at most {PIXELS}")
    return Image.open(io.BytesIO(data))


@dataclass(frozen=True)
class LabelMap:
    """A mask image's ids, (H, W) of whole numbers."""

    ids_hw: npt.NDArray[np.integer[Any]]
    is_palette: bool


def pixels(data: bytes, where: str) -> LabelMap:
    """Decode a mask: gray values, or the indices of a palette; of colors only if they are grays.

    Raises:
        DatasetError: it is damaged, holds colors or fractions, or is too large.
        ImageError: it is no image.
    """
    with _open(data, where) as image:
        mode = image.mode
        try:
            found = np.asarray(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise DatasetError(f"{where}: a mask that cannot be decoded ({error})") from None
    if mode in {"LA", "PA"}:
        found = found[..., 0]
    if found.ndim == 3 and mode in {"RGB", "RGBA"} and (found[..., :3] == found[..., :1]).all():
        found = found[..., 0]
    if found.ndim != 2 or found.dtype.kind not in "iub":
        raise DatasetError(f"{where}: a mask of mode {mode}, expected one number a pixel (gray, palette, 1 or 16 bits)")
    return LabelMap(found.astype(np.uint8) if found.dtype.kind == "b" else found, mode in {"P", "PA"})


@dataclass(frozen=True)
class MaskParser:
    """Parses one mask image. Of instances, 255 in a palette is void, as in Pascal VOC's SegmentationObject."""

    kind: Literal["semantic", "instance"]

    def __call__(self, data: bytes, where: str, file_name: str) -> Parsed:
        """Encode each class's region, or each object."""
        found = pixels(data, where)
        height, width = found.ids_hw.shape
        regions = masks.regions(found.ids_hw, (value for value in np.unique(found.ids_hw).tolist() if value != 0))
        if self.kind == "semantic":
            return Parsed(tuple(_region(value, rle) for value, rle in regions.items()), (width, height))
        void = regions.pop(VOID, None) if found.is_palette else None
        objects = [_instance(rle) for rle in regions.values()]
        return Parsed((*objects, *([_region(None, void, ignore=True)] if void else [])), (width, height))


def _region(category_id: int | None, rle: masks.Rle, ignore: bool = False) -> dict[str, Any]:
    columns = {"category_id": category_id, "kind": "region", "area": float(masks.area(rle)), "ignore": ignore}
    return annotation_row(**columns, segmentation=_struct(rle))


def _instance(rle: masks.Rle) -> dict[str, Any]:
    box, area = bbox_struct(*masks.bbox(rle)), float(masks.area(rle))
    return annotation_row(category_id=1, kind="instance", bbox=box, area=area, segmentation=_struct(rle))


def _struct(rle: masks.Rle) -> dict[str, Any]:
    return {"size": [rle.height, rle.width], "counts": rle.counts}


@dataclass(frozen=True)
class ByValue:
    """Semantic classes: a pixel's value is its category's id; `classes` names 1, 2, ..., else the values that occur count.

    255 is void (unlabeled, not scored) as in Pascal VOC and Cityscapes, unless values above it occur. Where it is
    the only value besides 0 the masks are black and white drawings, and it is the one class, 1.
    """

    classes: tuple[str, ...] = ()

    def __call__(self, annotations: pa.Table, problems: Problems) -> Categorized:
        """Settle what 255 is, then name the ids."""
        ids = annotations["category_id"].combine_chunks()
        values = set(pc.unique(ids).to_pylist())
        is_void = VOID in values and max(values) == VOID and len(self.classes) < VOID
        if values == {VOID} and len(self.classes) < 2:
            ids, values, is_void = pc.if_else(pc.equal(ids, VOID), 1, ids), {1}, False
        if is_void:
            void, ids = pc.equal(ids, VOID), pc.if_else(pc.equal(ids, VOID), pa.scalar(None, pa.int64()), ids)
            annotations = _set(annotations, "ignore", void)
            values.discard(VOID)
        rows = [{"category_id": value, "name": f"class {value}"} for value in sorted(values)]
        categories = table(self.classes) if self.classes else tables.from_rows(rows, tables.CATEGORIES)
        return ById(categories)(_set(annotations, "category_id", ids), problems)


def _set(annotations: pa.Table, name: str, column: pa.Array) -> pa.Table:
    place = annotations.schema.names.index(name)
    return annotations.set_column(place, tables.ANNOTATIONS.field(name), column)
