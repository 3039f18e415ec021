"""The items of a COCO instances file, made rows and columns as they are read; errors name the key and the index.

Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shardlens.pipeline import masks
from shardlens.pipeline.annotations.json_values import are_numbers, brief, integer, is_number, required, side
from shardlens.pipeline.annotations.source import RowBuffer, annotation_row, bbox_struct
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.warehouse import tables

SECTIONS = ("images", "annotations", "categories")


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
        self.sizes.append((side(item.get("width")), side(item.get("height"))))

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


def _row(item: dict[str, Any], spot: str) -> dict[str, Any]:
    """Make one annotation a row; what is wrong with its box or mask becomes a flag."""
    flags: list[str] = []
    kind, polygons, rle = "box", None, None
    segmentation = item.get("segmentation")
    if segmentation:
        kind = "instance"
        try:
            polygons, rle, _ = segmentation_of(segmentation)
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
