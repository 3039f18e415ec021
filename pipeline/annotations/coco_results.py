"""A COCO results file read entry by entry and checked against the dataset that it predicts.

Two forms are taken: the list that COCO's page describes, whose ids are the dataset's; and an object with images,
categories and annotations that carry a score, whose own ids are settled by file name and category name.
Format: https://cocodataset.org/#format-results
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from shardlens.pipeline import masks
from shardlens.pipeline.annotations import json_stream
from shardlens.pipeline.annotations.coco_document import brief, integer, is_number, required, segmentation_of
from shardlens.pipeline.annotations.source import RowBuffer, bbox_struct
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.masks.rle import Rle
from shardlens.pipeline.networks.labels import spelling
from shardlens.pipeline.warehouse import tables

LARGEST = 1e100
"""Numbers beyond this are taken for damage; whole numbers may be longer than a float holds."""

Named = dict[int, tuple[int | None, str]]
"""The file's id -> the dataset's id (None = it has none such) and the name."""


@dataclass
class Scope:
    """What the entries may speak of."""

    where: str
    """URI of the results file, for messages."""
    images: pa.Table
    """Rows of `tables.IMAGES` that were predicted."""
    categories: pa.Table
    """Rows of `tables.CATEGORIES`; none = any category is taken."""
    split: str | None = None
    semantic: bool = False
    """Whether masks are regions, whose score may be absent."""
    sizes: dict[int, tuple[int | None, int | None]] = field(init=False)
    """Height and width by image id."""
    image_names: Named = field(init=False)
    category_names: Named = field(init=False)

    def __post_init__(self) -> None:
        ids, names, high, wide = (self.images[c].to_pylist() for c in ("image_id", "file_name", "height", "width"))
        self.sizes = dict(zip(ids, zip(high, wide, strict=True), strict=True))
        self.image_names = {i: (i, name) for i, name in zip(ids, names, strict=True)}
        ids, names = (self.categories[c].to_pylist() for c in ("category_id", "name"))
        self.category_names = {i: (i, name) for i, name in zip(ids, names, strict=True)}

    def image(self, number: int, spot: str) -> int:
        """The dataset's id of an image of the file."""
        found, name = self.image_names.get(number, (None, None))
        if found is None:
            of = f"the split {self.split!r}" if self.split else "the dataset"
            called = f" ({name})" if name else ""
            raise DatasetError(
                f"{spot}: image_id {number}{called} is none of the {len(self.sizes)} images of {of}, whose ids are "
                f"{min(self.sizes)} to {max(self.sizes)}: see that the file belongs to this dataset and split"
            )
        return found

    def category(self, number: int, spot: str) -> tuple[int, str]:
        """The dataset's id and name of a category of the file."""
        found, name = self.category_names.get(number, (None, None))
        if found is not None and name is not None:
            return found, name
        if self.categories.num_rows == 0:
            return number, name or str(number)
        pairs = zip(*(self.categories[c].to_pylist() for c in ("category_id", "name")), strict=True)
        known = [f"{i} {there}" for i, there in pairs]
        called = f" ({name})" if name else ""
        raise DatasetError(
            f"{spot}: category_id {number}{called} is none of the dataset's {len(known)} categories: "
            f"{', '.join(known[:8])}{', ...' if len(known) > 8 else ''}"
        )


def read(data: bytes, scope: Scope) -> pa.Table:
    """Read and check all entries.

    Returns:
        Rows of `tables.PREDICTIONS` in the file's order, `rank` not given yet (0).

    Raises:
        DatasetError: it is no such file, or an entry is wrong; file, index and key are named.
    """
    text = json_stream.text_of(data, scope.where)
    rows = RowBuffer(tables.PREDICTIONS)
    for spot, entry in _entries(text, scope):
        if not isinstance(entry, dict):
            raise DatasetError(f"{spot} is {brief(entry)}, expected an object")
        rows.add(_row(entry, spot, scope))
    return rows.table()


def _entries(text: str, scope: Scope) -> Iterator[tuple[str, Any]]:
    """Each entry, and where it stands."""
    if json_stream.is_list(text):
        yield from ((f"{scope.where}: [{index}]", entry) for index, entry in json_stream.elements(text, scope.where))
        return
    sections = _settle(text, scope)
    if "annotations" not in sections:
        raise DatasetError(
            f"{scope.where} has the keys {', '.join(sorted(sections)) or 'none'}: expected a list of results, or an object "
            "with images, categories and annotations that carry a score"
        )
    for key, index, entry in json_stream.items(text, scope.where):
        if key == "annotations" and index is not None:
            yield f"{scope.where}: annotations[{index}]", entry


def _settle(text: str, scope: Scope) -> set[str]:
    """Take the ids of the file's own images and categories by their names; return the keys that the file has."""
    images = _by_file_name(scope.image_names)
    categories = {spelling(name): (number, name) for number, name in scope.category_names.values()}
    found: dict[str, Named] = {"images": {}, "categories": {}}
    sections = set()
    for key, index, item in json_stream.items(text, scope.where):
        sections.add(key)
        if key in found and index is not None:
            spot = f"{scope.where}: {key}[{index}]"
            name = str(required(item, "file_name" if key == "images" else "name", spot))
            if key == "images":
                settled = images.get(name, images.get(PurePosixPath(name).name)), name
            else:
                settled = categories.get(spelling(name), (None, name))
            found[key][integer(item, "id", spot)] = settled
    scope.image_names = found["images"] or scope.image_names
    scope.category_names = found["categories"] or scope.category_names
    return sections


def _by_file_name(images: Named) -> dict[str, int | None]:
    """Image ids by file name, and by its last part where only one image has it."""
    last: dict[str, int | None] = {}
    for number, name in images.values():
        short = PurePosixPath(name).name
        last[short] = None if short in last else number
    return {**last, **{name: number for number, name in images.values()}}


def _row(entry: Mapping[str, Any], spot: str, scope: Scope) -> dict[str, Any]:
    image_id = scope.image(integer(entry, "image_id", spot), spot)
    category_id, category = scope.category(integer(entry, "category_id", spot), spot)
    rle = _mask(entry.get("segmentation"), scope.sizes[image_id], spot)
    if scope.semantic and rle is None:
        raise DatasetError(f"{spot}: segmentation is {brief(entry.get('segmentation'))}, expected the mask of a region")
    x, y, width, height = _box(entry, rle, spot)
    return {
        "image_id": image_id,
        "rank": 0,
        "category_id": category_id,
        "category": category,
        "kind": "box" if rle is None else "region" if scope.semantic else "instance",
        "score": _score(entry, spot, scope),
        "bbox": bbox_struct(x, y, width, height),
        "area": width * height if rle is None else float(masks.area(rle)),
        "segmentation": None if rle is None else {"size": [rle.height, rle.width], "counts": rle.counts},
    }


def _score(entry: Mapping[str, Any], spot: str, scope: Scope) -> float:
    if "score" not in entry and scope.semantic:
        return 1.0
    score = required(entry, "score", spot)
    if not _is_finite(score):
        raise DatasetError(f"{spot}: score is {brief(score)}, expected a finite number")
    return float(score)


def _is_finite(value: Any) -> bool:
    return is_number(value) and abs(value) < LARGEST


def _box(entry: Mapping[str, Any], rle: Rle | None, spot: str) -> tuple[float, float, float, float]:
    """The box as given, or around the mask where none is given."""
    box = entry.get("bbox")
    if not box and rle is not None:
        return masks.bbox(rle)
    box = required(entry, "bbox", spot)
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))):
        raise DatasetError(f"{spot}: bbox is {brief(box)}, expected four finite numbers x, y, width, height")
    if box[2] < 0 or box[3] < 0:
        raise DatasetError(f"{spot}: bbox is {brief(box)}, expected a width and height of 0 or more (not corners)")
    return float(box[0]), float(box[1]), float(box[2]), float(box[3])


def _mask(found: Any, size: tuple[int | None, int | None], spot: str) -> Rle | None:
    """The mask, of the image's size; polygons are drawn."""
    if not found:
        return None
    height, width = size
    try:
        polygons, rle = segmentation_of(found)
        if rle is None and polygons and height and width:
            rle = masks.from_polygons(polygons, height, width)
    except DatasetError as error:
        raise DatasetError(f"{spot}: segmentation: {error}") from None
    if rle is not None and None not in size and (rle.height, rle.width) != size:
        raise DatasetError(
            f"{spot}: segmentation has the size {rle.height} x {rle.width} (height x width), the image {height} x {width}"
        )
    return rle
