"""A COCO results file read entry by entry and checked against the dataset that it predicts.

Two forms are taken: the list that COCO's page describes, whose ids are the dataset's; and an object with images,
categories and annotations that carry a score, whose own ids are matched by file name and category name.
Format: https://cocodataset.org/#format-results
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from shardlens.pipeline import masks
from shardlens.pipeline.annotations import json_stream, own_ids
from shardlens.pipeline.annotations.coco_document import segmentation_of
from shardlens.pipeline.annotations.json_values import brief, clean, integer, is_number, number_in, required
from shardlens.pipeline.annotations.own_ids import OwnId
from shardlens.pipeline.annotations.source import RowBuffer, bbox_struct
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.masks.rle import Rle
from shardlens.pipeline.networks.labels import by_name
from shardlens.pipeline.warehouse import tables

LARGEST = 1e100
"""Numbers beyond this are taken for damage; whole numbers may be longer than a float holds."""

OWN = -(1 << 62)
"""Numbers for the file's ids that are other text count down from here."""

Named = dict[int, tuple[int | None, str]]
"""The file's id -> the dataset's id (None: it has no such) and the name."""


@dataclass
class Scope:
    """What the entries may refer to; the ids of an object's own images and categories replace the dataset's."""

    where: str
    """URI of the results file, for messages."""
    images: pa.Table
    """Rows of `tables.IMAGES` that were predicted."""
    categories: pa.Table
    """Rows of `tables.CATEGORIES`; if there is none, any category is accepted."""
    split: str | None = None
    document: Mapping[str, Any] = field(default_factory=lambda: {"sources": []})
    """The dataset's dataset.json."""
    semantic: bool = False
    """Whether every entry is a region, whose score may be absent."""
    stuff: frozenset[int] = frozenset()
    """Categories whose masks are regions, whatever the others are."""
    unknown_categories: Counter[str] = field(default_factory=Counter)
    """Names of categories that the dataset lacks, with the number of their entries."""
    bad_polygons: int = 0
    """Polygons that cannot be drawn, of masks whose other polygons can."""
    ambiguous: dict[int, list[str]] = field(default_factory=dict)
    """Numbers of images of which several have them in their own files, or under the file's name, and such images."""
    own: dict[int, OwnId] = field(init=False)
    """Number of an entry -> the id as it is written."""
    sizes: dict[int, tuple[int | None, int | None]] = field(init=False)
    """Height and width by image id."""
    file_names: dict[int, str] = field(init=False)
    """By image id."""
    image_names: Named = field(init=False)
    category_names: Named = field(init=False)
    texts: dict[str, dict[str, int]] = field(init=False)
    """Ids that are text: key of the entry -> text -> number."""

    def __post_init__(self) -> None:
        ids, names, high, wide = (self.images[c].to_pylist() for c in ("image_id", "file_name", "height", "width"))
        self.sizes = dict(zip(ids, zip(high, wide, strict=True), strict=True))
        self.file_names = dict(zip(ids, names, strict=True))
        own = own_ids.of_images(self.images, self.document)
        texts = {text: OWN - i for i, text in enumerate(dict.fromkeys(each for each in own if isinstance(each, str)))}
        numbers = [texts[each] if isinstance(each, str) else each for each in own]
        self.image_names = {i: (i, name) for i, name in zip(ids, names, strict=True)}
        self.image_names |= {n: (i, name) for n, i, name in zip(numbers, ids, names, strict=True)}
        for each, rows in own_ids.repeated(numbers).items():
            self.ambiguous[int(each)] = [_spot(self.images, row) for row in rows[:2]]
        self.own = dict(zip(numbers, own, strict=True))
        self.texts = {"image_id": texts}
        ids, names = (self.categories[c].to_pylist() for c in ("category_id", "name"))
        self.category_names = {i: (i, name) for i, name in zip(ids, names, strict=True)}
        self.texts["category_id"] = _source_ids(self.categories, ids)

    def number(self, entry: Mapping[str, Any], key: str, spot: str) -> int:
        """The number of an id, which may be text as the dataset's file or this one had it."""
        value = required(entry, key, spot)
        number = self.texts[key].get(value) if isinstance(value, str) else None
        return integer(entry, key, spot) if number is None else number

    def image(self, number: int, spot: str) -> int:
        """The dataset's id of an image of the file."""
        if number in self.ambiguous:
            raise DatasetError(
                f"{spot}: image_id {self.own.get(number, number)} is that of several images of the dataset, such as "
                f"{' and '.join(self.ambiguous[number])}: import the results of one split at a time (--split)"
            )
        image_id, name = self.image_names.get(number, (None, None))
        if image_id is None:
            known = [each for each in self.own.values() if isinstance(each, int)] or list(self.sizes)
            of = f"the split {self.split!r}" if self.split else "the dataset"
            called = f" ({name})" if name else ""
            raise DatasetError(
                f"{spot}: image_id {number}{called} is none of the {len(self.sizes)} images of {of}, whose ids are "
                f"{min(known)} to {max(known)}: check that the file belongs to this dataset and split"
            )
        return image_id

    def category(self, number: int) -> tuple[int | None, str]:
        """The dataset's id and name of a category of the file; no id for one that the dataset lacks."""
        category_id, name = self.category_names.get(number, (None, str(number)))
        if category_id is None and self.categories.num_rows == 0:
            return number, name
        if category_id is None:
            self.unknown_categories[name] += 1
        return category_id, name


def _spot(images: pa.Table, row: int) -> str:
    return f"{images['file_name'][row]} ({images['split'][row].as_py() or 'no split'})"


def _several(images: pa.Table, named: Mapping[int, str]) -> dict[int, list[str]]:
    """The file's ids whose file names several images of the dataset have."""
    again = own_ids.repeated(images["file_name"].to_pylist())
    return {number: [_spot(images, row) for row in again[name][:2]] for number, name in named.items() if name in again}


def _source_ids(table: pa.Table, ids: list[int]) -> dict[str, int]:
    """Ids by the text that the dataset's own file has for them."""
    if "source_id" not in table.schema.names:
        return {}
    return {text: i for text, i in zip(table["source_id"].to_pylist(), ids, strict=True) if text is not None}


def read(data: bytes, scope: Scope) -> pa.Table:
    """Read and check all entries.

    Returns:
        Rows of `tables.PREDICTIONS` in the file's order, `rank` not given yet (0).

    Raises:
        DatasetError: it is no such file, or an entry is wrong; file, index and key are named.
        ConfigError: a category's name could be two categories of the dataset.
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
    sections = _match_names(text, scope)
    if "annotations" not in sections:
        raise DatasetError(
            f"{scope.where} has the keys {', '.join(sorted(sections)) or 'none'}: expected a list of results, or an object "
            "with images, categories and annotations that carry a score"
        )
    for key, index, entry in json_stream.items(text, scope.where):
        if key == "annotations" and index is not None:
            yield f"{scope.where}: annotations[{index}]", entry
        elif key == "annotations" and entry != []:
            raise DatasetError(f"{scope.where}: 'annotations' is {brief(entry)}, expected a list")


def _match_names(text: str, scope: Scope) -> set[str]:
    """Match the file's own images and categories by their names; return the keys that the file has."""
    named: dict[str, dict[int, str]] = {"images": {}, "categories": {}}
    texts: dict[str, dict[str, int]] = {"images": {}, "categories": {}}
    sections = set()
    for key, index, item in json_stream.items(text, scope.where):
        sections.add(key)
        if key in named and index is not None:
            spot = f"{scope.where}: {key}[{index}]"
            name = clean(str(required(item, "file_name" if key == "images" else "name", spot)))
            number = required(item, "id", spot)
            if isinstance(number, str):
                plain = number_in(number)
                number = texts[key].setdefault(number, OWN - len(texts[key]) if plain is None else plain)
            named[key][integer({"id": number}, "id", spot)] = name
    if named["images"]:
        images = _by_file_name(scope.image_names)
        last = {i: images.get(name, images.get(PurePosixPath(name).name)) for i, name in named["images"].items()}
        scope.image_names = {i: (last[i], name) for i, name in named["images"].items()}
        scope.own = {**{i: i for i in named["images"]}, **{number: text for text, number in texts["images"].items()}}
        scope.ambiguous = _several(scope.images, named["images"])
        scope.texts["image_id"] = texts["images"]
    if named["categories"]:
        scope.category_names = _by_category_name(named["categories"], scope)
        scope.texts["category_id"] = texts["categories"]
    return sections


def _by_category_name(names: Mapping[int, str], scope: Scope) -> Named:
    """Match the file's categories; one that the dataset lacks has no id."""
    if scope.categories.num_rows == 0:
        return {number: (None, name) for number, name in names.items()}
    hits = by_name(list(names.values()), scope.categories, "category")
    if not any(hits):
        there = scope.categories["name"].to_pylist()
        raise DatasetError(
            f"{scope.where}: none of its {len(names)} categories ({', '.join(list(names.values())[:5])}) is one of the "
            f"dataset's {len(there)} ({', '.join(there[:5])}): check that the file belongs to this dataset"
        )
    pairs = zip(names.items(), hits, strict=True)
    return {number: (hit.category_id, hit.name) if hit else (None, name) for (number, name), hit in pairs}


def _by_file_name(images: Named) -> dict[str, int | None]:
    """Image ids by file name, and by its last part where only one image has it."""
    last: dict[str, int | None] = {}
    for number, name in images.values():
        short = PurePosixPath(name).name
        last[short] = None if short in last else number
    return {**last, **{name: number for number, name in images.values()}}


def _row(entry: Mapping[str, Any], spot: str, scope: Scope) -> dict[str, Any]:
    image_id = scope.image(scope.number(entry, "image_id", spot), spot)
    category_id, category = scope.category(scope.number(entry, "category_id", spot))
    rle = _mask(entry.get("segmentation"), image_id, spot, scope)
    is_region = scope.semantic or category_id in scope.stuff
    if scope.semantic and rle is None:
        raise DatasetError(f"{spot}: segmentation is {brief(entry.get('segmentation'))}, expected the mask of a region")
    x, y, width, height = _box(entry, rle, spot)
    return {
        "image_id": image_id,
        "rank": 0,
        "category_id": category_id,
        "category": category,
        "kind": "box" if rle is None else "region" if is_region else "instance",
        "score": _score(entry, spot, scope),
        "bbox": bbox_struct(x, y, width, height),
        "area": width * height if rle is None else float(masks.area(rle)),
        "segmentation": None if rle is None else {"size": [rle.height, rle.width], "counts": rle.counts},
        "file_name": scope.file_names[image_id],
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


def _mask(found: Any, image_id: int, spot: str, scope: Scope) -> Rle | None:
    """The mask, of the image's size; polygons are drawn, those that can be."""
    if not found:
        return None
    height, width = scope.sizes[image_id]
    try:
        polygons, rle, bad = segmentation_of(found)
        if rle is None and polygons:
            if not (height and width):
                raise DatasetError(f"polygons, and the size of image {image_id} is not known: give the mask as RLE")
            valid = masks.drawable(polygons)
            rle = masks.from_polygons(valid or polygons, height, width)
            bad += len(polygons) - len(valid)
    except DatasetError as error:
        raise DatasetError(f"{spot}: segmentation: {error}") from None
    scope.bad_polygons += bad
    if rle is not None and height and width and (rle.height, rle.width) != (height, width):
        raise DatasetError(
            f"{spot}: segmentation has the size {rle.height} x {rle.width} (height x width), the image {height} x {width}"
        )
    return rle
