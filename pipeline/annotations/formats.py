"""The annotation formats by name, and telling which one lies at a place."""

from __future__ import annotations

from shardlens.pipeline import storage
from shardlens.pipeline.annotations import coco, label_maps, places, plain, voc
from shardlens.pipeline.annotations.source import Reader
from shardlens.pipeline.errors import DatasetError

READERS: dict[str, Reader] = {"coco": coco.read, "voc": voc.read, "masks": label_maps.read, "none": plain.read}
"""Name of a format -> its reader. A new format is one module, one line here, and a few in `detect`."""


def detect(images: str, annotations: str | None) -> str:
    """Tell the format from the names at the two places, or at the images' alone.

    Raises:
        DatasetError: annotations are named, and their format cannot be told.
    """
    if annotations is not None and annotations.lower().endswith(".json"):
        return "coco"
    root = annotations or images
    names = [] if places.is_tar(root) else storage.children(root)
    if "Annotations/" in names:
        return "voc"
    if _has_mask_folders(root, names):
        return "masks"
    if annotations is None:
        return "none"
    suffixes = {f".{name.rpartition('.')[2].lower()}" for name in names}
    if ".xml" in suffixes:
        return "voc"
    if suffixes & set(label_maps.MASK_SUFFIXES):
        return "masks"
    raise DatasetError(
        f"the format of the annotations {annotations} cannot be told (it holds {', '.join(names[:4]) or 'nothing'}): "
        f"expected a .json file, or a folder of .xml files or mask images; "
        f"name the format with --format, one of {', '.join(READERS)}"
    )


def _has_mask_folders(root: str, names: list[str]) -> bool:
    """Whether `images/` and `masks/` lie side by side below the root or below one of its folders."""
    wanted = {"images/", "masks/"}
    if wanted <= set(names):
        return True
    folders = [name for name in names if name.endswith("/")][:8]
    return any(wanted <= set(storage.children(storage.join(root, folder))) for folder in folders)
