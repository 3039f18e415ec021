"""The items of a COCO instances file, made rows and columns as they are read; errors name the key and the index.

Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from shardlens.pipeline import masks
from shardlens.pipeline.annotations.source import RowBuffer, annotation_row, bbox_struct
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.warehouse import tables

SECTIONS = ("images", "annotations", "categories")
INT64 = 1 << 63


@dataclass
class Document:
    """The file's three lists, as tables and columns while they are read."""

    where: str
    split: str | None
    seen: set[str] = field(default_factory=set)
    file_names: list[str] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)
    sizes: list[tuple[int | None, int | None]] = field(default_factory=list)
    category_ids: set[int] = field(default_factory=set)
    annotations: RowBuffer = field(default_factory=lambda: RowBuffer(tables.ANNOTATIONS))
    categories: RowBuffer = field(default_factory=lambda: RowBuffer(tables.CATEGORIES))

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
            raise DatasetError(f"{spot} is {brief(item)}, expected an object")
        {"images": self._image, "annotations": self._annotation, "categories": self._category}[key](item, spot)

    def _image(self, item: dict[str, Any], spot: str) -> None:
        name = required(item, "file_name", spot)
        if not isinstance(name, str):
            raise DatasetError(f"{spot}: file_name is {brief(name)}, expected text")
        self.file_names.append(name)
        self.image_ids.append(integer(item, "id", spot))
        self.sizes.append((_side(item.get("width")), _side(item.get("height"))))

    def _annotation(self, item: dict[str, Any], spot: str) -> None:
        self.annotations.add(_row(item, spot))

    def _category(self, item: dict[str, Any], spot: str) -> None:
        number = integer(item, "id", spot)
        if number in self.category_ids:
            raise DatasetError(f"{spot}: category id {number} is given twice, expected one category for each id")
        self.category_ids.add(number)
        above = item.get("supercategory")
        name = str(required(item, "name", spot))
        self.categories.add(
            {"category_id": number, "name": name, "supercategory": None if above is None else str(above)}
        )

    def check(self) -> None:
        """Raise a `DatasetError` if a list was missing, or there is no image."""
        missing = [section for section in SECTIONS if section not in self.seen]
        if missing:
            raise DatasetError(
                f"{self.where} has no key {missing[0]!r}: expected a COCO instances file with the lists "
                f"{', '.join(SECTIONS)} (a list of detections is taken in by 'shardlens import')"
            )
        if not self.file_names:
            raise DatasetError(f"{self.where}: 'images' is an empty list, expected one image or more")


def brief(value: object) -> str:
    """Type and beginning of a value, for a message."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def required(item: Mapping[str, Any], key: str, spot: str) -> Any:
    """The value of a key that must be there; `spot` says where for the `DatasetError`."""
    if key not in item:
        raise DatasetError(f"{spot} has no key {key!r}; its keys are {', '.join(map(str, item)) or 'none'}")
    return item[key]


def integer(item: Mapping[str, Any], key: str, spot: str) -> int:
    """The whole number of a key, else a `DatasetError`."""
    value = required(item, key, spot)
    if isinstance(value, bool) or not isinstance(value, int) or not -INT64 <= value < INT64:
        raise DatasetError(f"{spot}: {key} is {brief(value)}, expected a whole number")
    return value


def _side(value: object) -> int | None:
    return value if isinstance(value, int) and 0 < value < 1 << 31 else None


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a JSON number that a float64 can hold."""
    return type(value) is float or (type(value) is int and abs(value) < INT64)


def _are_numbers(values: list[Any]) -> bool:
    return set(map(type, values)) == {float} or all(map(is_number, values))


def _row(item: dict[str, Any], spot: str) -> dict[str, Any]:
    """Make one annotation a row; what is wrong with its box or mask becomes a flag."""
    flags: list[str] = []
    kind, polygons, rle = "box", None, None
    segmentation = item.get("segmentation")
    if segmentation:
        kind = "instance"
        try:
            polygons, rle = segmentation_of(segmentation)
        except DatasetError:
            flags.append("bad-mask")
    area = item.get("area")
    return annotation_row(
        annotation_id=integer(item, "id", spot),
        image_id=integer(item, "image_id", spot),
        category_id=integer(item, "category_id", spot),
        kind=kind,
        bbox=_bbox(item.get("bbox"), polygons, rle, flags),
        area=float(area) if is_number(area) else None,
        iscrowd=bool(item.get("iscrowd")),
        ignore=bool(item.get("ignore")),
        segmentation=None if rle is None else {"size": [rle.height, rle.width], "counts": rle.counts},
        polygons=polygons,
        flags=flags,
    )


def segmentation_of(found: Any) -> tuple[list[list[float]] | None, masks.Rle | None]:
    """Return polygons or an RLE; which of them a file may hold is told by its form."""
    if isinstance(found, list):
        if not all(isinstance(polygon, list) and _are_numbers(polygon) for polygon in found):
            raise DatasetError(f"segmentation is {brief(found)}, expected lists of numbers")
        return found, None
    size, counts = (found.get("size"), found.get("counts")) if isinstance(found, dict) else (None, None)
    if not (isinstance(size, list) and len(size) == 2 and all(map(_side, size)) and isinstance(counts, list | str)):
        raise DatasetError(f"segmentation is {brief(found)}, expected polygons or size and counts")
    return None, masks.from_counts(counts, size[0], size[1])


def _bbox(
    found: Any, polygons: list[list[float]] | None, rle: masks.Rle | None, flags: list[str]
) -> dict[str, float] | None:
    """Return the box as given; where none is given, the one around the mask."""
    if isinstance(found, list) and len(found) == 4 and all(map(is_number, found)):
        return bbox_struct(*map(float, found))
    if not found and rle is not None:
        return bbox_struct(*masks.bbox(rle))
    xs = [float(x) for polygon in polygons or () for x in polygon[0::2]]
    ys = [float(y) for polygon in polygons or () for y in polygon[1::2]]
    if not found and xs and ys:
        return bbox_struct(min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    flags.append("unreadable-box")
    return None
