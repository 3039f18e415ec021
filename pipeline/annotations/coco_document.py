"""The items of a COCO instances file, made rows and columns as they are read; errors name the key and the index.

An item that cannot be used is left out and counted; only what leaves nothing to read is an error.
Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from shardlens.pipeline import masks
from shardlens.pipeline.annotations.coco_ids import NO_ID, Ids
from shardlens.pipeline.annotations.json_values import are_numbers, brief, clean, flag, is_number, side, whole
from shardlens.pipeline.annotations.problems import Problems
from shardlens.pipeline.annotations.source import RowBuffer, annotation_row, bbox_struct
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.warehouse import tables

SECTIONS = ("images", "annotations", "categories")
ANNOTATIONS = tables.ANNOTATIONS.append(tables.SOURCE_ID)


@dataclass(frozen=True)
class Entry:
    """An image of the file."""

    number: int
    """Its id, or what stands for it."""
    text: str | None
    """Its id, where the file has it as text."""
    file_name: str
    size: tuple[int | None, int | None]
    """Width and height."""

    @property
    def source_id(self) -> str | None:
        """Its id as text; None if it has none."""
        return self.text if self.text is not None or self.number == NO_ID else str(self.number)


@dataclass
class Document:
    """The file's three lists, as tables and columns while they are read."""

    where: str
    problems: Problems
    seen: set[str] = field(default_factory=set)
    images: list[Entry] = field(default_factory=list)
    annotations: RowBuffer = field(default_factory=lambda: RowBuffer(ANNOTATIONS))
    categories: dict[int, dict[str, Any]] = field(default_factory=dict)
    stuff: set[int] = field(default_factory=set)
    """Categories that the file calls no things, by what stands for their ids."""
    image_ids: Ids = field(default_factory=Ids)
    category_ids: Ids = field(default_factory=Ids)

    def take(self, key: str, index: int | None, item: Any) -> None:
        """Take one item of a list; what is not one of the three lists is left alone."""
        if key not in SECTIONS:
            return
        self.seen.add(key)
        if index is None:
            if item != []:
                raise DatasetError(f"{self.where}: {key!r} is {brief(item)}, expected a list")
            return
        spot = f"{self.where}: {key}[{index}]"
        if not isinstance(item, dict):
            self.problems.one("unreadable-entry", f"{spot} is {brief(item)}, expected an object")
            return
        {"images": self._image, "annotations": self._annotation, "categories": self._category}[key](item, spot)

    def _image(self, item: dict[str, Any], spot: str) -> None:
        name = item.get("file_name")
        if not isinstance(name, str):
            held = f"file_name is {brief(name)}, expected text" if "file_name" in item else _lacks(item, "file_name")
            self.problems.one("unreadable-entry", f"{spot}: {held}")
            return
        number, text = _id(item, self.image_ids)
        if number == NO_ID:
            self.problems.one("unreadable-id", f"{spot}, {name}: id is {brief(item.get('id'))}")
        self.images.append(Entry(number, text, clean(name), (side(item.get("width")), side(item.get("height")))))

    def _annotation(self, item: dict[str, Any], spot: str) -> None:
        self.annotations.add(self._row(item, spot))

    def _category(self, item: dict[str, Any], spot: str) -> None:
        number, text = _id(item, self.category_ids)
        if number == NO_ID:
            self.problems.one("unreadable-entry", f"{spot}: id is {brief(item.get('id'))}, expected a whole number")
            return
        above, name = item.get("supercategory"), item.get("name")
        if name is None:
            self.problems.one("unnamed-category", f"{spot}: {_lacks(item, 'name')}")
        row = {
            "name": clean(str(name)) if name is not None else f"class {self.category_ids.text(number)}",
            "supercategory": None if above is None else clean(str(above)),
            "source_id": text,
        }
        known = self.categories.setdefault(number, row)
        if known["name"] != row["name"]:
            raise DatasetError(
                f"{spot}: category id {self.category_ids.text(number)} is given twice, as {known['name']!r} and as "
                f"{row['name']!r}: expected one category for each id"
            )
        if whole(item.get("isthing")) == 0:
            self.stuff.add(number)

    def check(self) -> None:
        """Raise a `DatasetError` if there is no image."""
        if "images" not in self.seen:
            raise DatasetError(
                f"{self.where} has no key 'images': expected a COCO instances file with the lists "
                f"{', '.join(SECTIONS)} (a list of detections is read by 'shardlens import')"
            )
        if not self.images:
            unread = self.problems.examples.get("unreadable-entry")
            if unread:
                raise DatasetError(f"no entry of 'images' can be used; the first: {unread[0]}")
            raise DatasetError(f"{self.where}: 'images' is an empty list, expected one image or more")

    def _row(self, item: dict[str, Any], spot: str) -> dict[str, Any]:
        """Make one annotation a row; what is wrong with it becomes a flag."""
        flags: list[str] = []
        kind, polygons, rle = "box", None, None
        segmentation = item.get("segmentation")
        if segmentation:
            kind = "region" if item.get("kind") == "region" else "instance"
            polygons, rle = _mask(segmentation, flags)
        number, text = whole(item.get("id")), item.get("id")
        number = None if number is None or number <= NO_ID else number
        if number is None and not isinstance(text, str):
            flags.append("unreadable-id")
        return annotation_row(
            annotation_id=NO_ID if number is None else number,
            image_id=self.image_ids.read(item.get("image_id")),
            category_id=self.category_ids.read(item.get("category_id")),
            kind=kind,
            bbox=_bbox(item.get("bbox"), polygons, rle, kind, flags),
            area=_area(item.get("area"), flags),
            iscrowd=_flag(item.get("iscrowd"), flags),
            ignore=_flag(item.get("ignore"), flags),
            segmentation=None if rle is None else {"size": [rle.height, rle.width], "counts": rle.counts},
            polygons=polygons,
            flags=list(dict.fromkeys(flags)),
            source_id=clean(text) if isinstance(text, str) else None,
        )

    def category_table(self, numbers: list[int]) -> pa.Table:
        """The categories under their settled ids."""
        rows = [{"category_id": i, **row} for i, row in zip(numbers, self.categories.values(), strict=True)]
        table = tables.from_rows(rows, tables.CATEGORIES.append(tables.SOURCE_ID))
        return tables.without_empty(table, tables.SOURCE_ID.name)


def _lacks(item: dict[str, Any], key: str) -> str:
    return f"no key {key!r}; its keys are {', '.join(map(clean, item)) or 'none'}"


def _id(item: dict[str, Any], ids: Ids) -> tuple[int, str | None]:
    """The id of an item, and its text if it is text."""
    value = item.get("id")
    return ids.read(value), clean(value) if isinstance(value, str) else None


def _flag(value: object, flags: list[str]) -> bool:
    read = flag(value)
    if read is None:
        flags.append("unreadable-flag")
    return bool(read)


def _area(value: object, flags: list[str]) -> float | None:
    if is_number(value):
        return float(value)
    if value is not None:
        flags.append("unreadable-area")
    return None


def _mask(found: Any, flags: list[str]) -> tuple[list[list[float]] | None, masks.Rle | None]:
    try:
        polygons, rle, bad = segmentation_of(found)
    except DatasetError:
        flags.append("bad-mask")
        return None, None
    if bad:
        flags.append("bad-polygon")
    return polygons, rle


def segmentation_of(found: Any) -> tuple[list[list[float]] | None, masks.Rle | None, int]:
    """Read a segmentation, whose form says what it is.

    Returns:
        Polygons or an RLE, and how many other things were among the polygons.

    Raises:
        DatasetError: it is neither.
    """
    if isinstance(found, list):
        polygons = [polygon for polygon in found if isinstance(polygon, list) and are_numbers(polygon)]
        if not polygons:
            raise DatasetError(f"segmentation is {brief(found)}, expected lists of numbers")
        return polygons, None, len(found) - len(polygons)
    size, counts = (found.get("size"), found.get("counts")) if isinstance(found, dict) else (None, None)
    sides = [side(value) for value in size] if isinstance(size, list) and len(size) == 2 else []
    if not (len(sides) == 2 and sides[0] and sides[1] and isinstance(counts, list | str)):
        raise DatasetError(f"segmentation is {brief(found)}, expected polygons or size and counts")
    return None, masks.from_counts(counts, sides[0], sides[1]), 0


def _bbox(
    found: Any, polygons: list[list[float]] | None, rle: masks.Rle | None, kind: str, flags: list[str]
) -> dict[str, float] | None:
    """Return the box as given; where none is given, the one around an object's mask."""
    if isinstance(found, list) and len(found) == 4 and all(map(is_number, found)):
        return bbox_struct(*map(float, found))
    if not found and kind == "region":
        return None
    if not found and rle is not None:
        return bbox_struct(*masks.bbox(rle))
    drawn = masks.drawable(polygons or []) or polygons or ()
    xs = [float(x) for polygon in drawn for x in polygon[0::2]]
    ys = [float(y) for polygon in drawn for y in polygon[1::2]]
    if not found and xs and ys:
        return bbox_struct(min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    flags.append("unreadable-box")
    return None
