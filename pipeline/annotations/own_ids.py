"""The ids that a dataset's own files have, which exports give back and results made elsewhere refer to.

The column `source_id` holds them as text; what they were in the file, numbers or text, the dataset's record says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline.annotations.coco_ids import unused
from shardlens.pipeline.annotations.json_values import number_in
from shardlens.pipeline.warehouse import tables

OwnId = int | str
NUMBER, TEXT, MIXED = "number", "text", "mixed"
"""What the ids of a file are; of mixed ones those that read as a number are numbers."""


def kind_of(texts: int, numbers: int) -> str:
    """What the ids of a file are, of which so many are text and numbers."""
    return MIXED if texts and numbers else TEXT if texts else NUMBER


def of_images(images: pa.Table, document: Mapping[str, Any]) -> list[OwnId]:
    """The own id of each image; one that has none gets its image_id, or where another has that, a free number.

    Args:
        images: of the dataset.
        document: its dataset.json.
    """
    return _filled(list(_own(images, images["split"].to_pylist(), document, "images")), images["image_id"])


def of_annotations(annotations: pa.Table, images: pa.Table, document: Mapping[str, Any]) -> list[OwnId]:
    """The own id of each annotation; see `of_images`."""
    if tables.SOURCE_ID.name not in annotations.schema.names:
        ids: list[OwnId] = annotations["annotation_id"].to_pylist()
        return ids
    place = pc.index_in(annotations["image_id"], value_set=images["image_id"].combine_chunks())
    splits = images["split"].take(place).to_pylist()
    return _filled(list(_own(annotations, splits, document, "annotations")), annotations["annotation_id"])


def of_categories(categories: pa.Table) -> list[OwnId]:
    """The own id of each category: text where the file has it so."""
    ids: list[OwnId] = categories["category_id"].to_pylist()
    if tables.SOURCE_ID.name not in categories.schema.names:
        return ids
    texts = categories[tables.SOURCE_ID.name].to_pylist()
    return [number if text is None else text for number, text in zip(ids, texts, strict=True)]


def repeated(ids: Sequence[OwnId]) -> dict[OwnId, list[int]]:
    """Ids that occur several times, and where."""
    places: dict[OwnId, list[int]] = {}
    for row, own in enumerate(ids):
        places.setdefault(own, []).append(row)
    return {own: rows for own, rows in places.items() if len(rows) > 1}


def _own(
    table: pa.Table, splits: Sequence[str | None], document: Mapping[str, Any], part: str
) -> Iterator[OwnId | None]:
    kinds = {
        split: source.get("ids", {}).get(part, TEXT) for source in document["sources"] for split in source["splits"]
    }
    for text, split in zip(table[tables.SOURCE_ID.name].to_pylist(), splits, strict=True):
        kind = kinds.get(split, TEXT)
        if text is None or kind == TEXT:
            yield text
        elif kind == NUMBER:
            yield int(text)
        else:
            number = number_in(text)
            yield text if number is None else number


def _filled(own: list[OwnId | None], ids: pa.ChunkedArray) -> list[OwnId]:
    without = [row for row, each in enumerate(own) if each is None]
    taken = {each for each in own if isinstance(each, int)}
    numbers: list[int] = ids.take(pa.array(without, pa.int64())).to_pylist()
    clashing = {number for number in numbers if number in taken}
    fresh = iter(unused([*taken, *numbers], len(clashing)) if clashing else [])
    filled = dict(zip(without, (next(fresh) if number in taken else number for number in numbers), strict=True))
    return [filled[row] if each is None else each for row, each in enumerate(own)]
