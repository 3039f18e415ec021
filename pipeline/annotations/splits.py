"""Splits that were ingested one by one become one dataset, in which every annotation has an id of its own.

Ids of images are settled before (`identity`). Those of annotations that formats gave stay where they are free, the others are
counted anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline.annotations.assembly import Assembled, by_ids
from shardlens.pipeline.annotations.coco_ids import unused
from shardlens.pipeline.annotations.frame import COLUMN
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.tables import SOURCE_ID

Ints = npt.NDArray[np.int64]
TAKEN = -(1 << 63)
"""No annotation has this id."""
REMEDY = "give this one another dataset name, or make the two files agree"


@dataclass(frozen=True)
class Part:
    """What one ingest brought, or what is left of it."""

    name: str
    """For messages: the URI of its annotations or images."""
    content: Assembled
    has_ids: bool
    """Whether image and annotation ids are the format's own."""
    has_category_ids: bool


def of_splits(content: Assembled, splits: Sequence[str | None]) -> Assembled:
    """Keep the images of `splits`, None being those without one, and their annotations."""
    names = [split for split in splits if split is not None]
    chosen = pc.is_in(content.images["split"], value_set=pa.array(names, pa.string()))
    if None in splits:
        chosen = pc.or_(chosen, pc.is_null(content.images["split"]))
    images = content.images.filter(chosen)
    mine = pc.is_in(content.annotations["image_id"], value_set=images["image_id"].combine_chunks())
    return Assembled(images, content.annotations.filter(mine), content.categories)


def merge(parts: Sequence[Part], new: Part | None = None, earlier: pa.Table | None = None) -> Assembled:
    """Put parts of different splits, whose images have ids of their own, into one dataset.

    Args:
        parts: what stays of the dataset.
        new: what is added; where its annotations have ids that others have, it gets others.
        earlier: annotations of the earlier version; a clashing one that had got another id there gets it again.

    Raises:
        DatasetError: categories do not agree by id and name.
    """
    every = [*parts, new] if new is not None else list(parts)
    categories = _categories(every)
    every = [_with_categories(part, categories) for part in every]
    given = [part.content for part in every if part.has_ids]
    if new is not None and new.has_ids:
        others = _ids([content.annotations for content in given[:-1]])
        given[-1] = replace(given[-1], annotations=_apart(given[-1].annotations, others, earlier))
    counted = [part.content for part in every if not part.has_ids]
    annotations = [content.annotations for content in given]
    annotations += _counted([content.annotations for content in counted], _ids(annotations))
    return Assembled(
        by_ids(_joined([content.images for content in (*given, *counted)]), "image_id"),
        by_ids(_joined(annotations), "image_id", "annotation_id"),
        categories,
    )


def _ids(parts: Sequence[pa.Table]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *(table["annotation_id"].to_numpy() for table in parts)])


def _apart(annotations: pa.Table, others: Ints, earlier: pa.Table | None) -> pa.Table:
    """Give those annotations other ids whose own are among `others`, which stay in the column source_id."""
    own: Ints = annotations["annotation_id"].to_numpy()
    clashing = np.isin(own, others)
    if not clashing.any():
        return annotations
    texts = (
        annotations[SOURCE_ID.name] if SOURCE_ID.name in annotations.schema.names else pa.nulls(len(own), pa.string())
    )
    sources = pc.coalesce(texts, pa.array(own, mask=~clashing).cast(pa.string()))
    ids = own.copy()
    rows = np.flatnonzero(clashing)
    before = _earlier_ids(earlier)
    keys = zip(annotations["image_id"].take(rows).to_pylist(), sources.take(pa.array(rows)).to_pylist(), strict=True)
    known = np.array([before.get(key, TAKEN) for key in keys])
    taken = np.concatenate([others, own[~clashing]])
    known[np.isin(known, taken)] = TAKEN
    ids[rows] = known
    left = rows[known == TAKEN]
    ids[left] = unused(np.concatenate([taken, known[known != TAKEN]]).tolist(), len(left))
    if SOURCE_ID.name in annotations.schema.names:
        annotations = annotations.drop_columns([SOURCE_ID.name])
    return _set(annotations, "annotation_id", pa.array(ids)).append_column(SOURCE_ID, sources)


def _earlier_ids(annotations: pa.Table | None) -> dict[tuple[int, str], int]:
    """Id of each annotation that has another one in its file, by its image and that one."""
    if annotations is None or SOURCE_ID.name not in annotations.schema.names:
        return {}
    renamed = annotations.filter(annotations[SOURCE_ID.name].is_valid())
    columns = (renamed[name].to_pylist() for name in ("image_id", SOURCE_ID.name, "annotation_id"))
    return {(image, source): number for image, source, number in zip(*columns, strict=True)}


def _counted(parts: Sequence[pa.Table], given: Ints) -> list[pa.Table]:
    """Number annotations in the order of their images, after the ids that formats gave."""
    if not parts:
        return []
    annotations = by_ids(_joined(parts), "image_id", "annotation_id")
    ids = pa.array(int(given.max(initial=0)) + 1 + np.arange(annotations.num_rows))
    return [_set(annotations, "annotation_id", ids)]


def renumbered(content: Assembled, ids: Ints) -> Assembled:
    """Exchange the ids of the images, row by row, and of their annotations' images."""
    old: Ints = content.images["image_id"].to_numpy()
    images = _set(content.images, "image_id", pa.array(ids))
    return replace(content, images=images, annotations=_owned(content.annotations, old, ids))


def _owned(annotations: pa.Table, old: Ints, new: Ints) -> pa.Table:
    """Exchange the images' old ids for the new."""
    order = np.argsort(old)
    places = np.searchsorted(old[order], annotations["image_id"].to_numpy())
    return _set(annotations, "image_id", pa.array(new[order][places]))


def _joined(parts: Sequence[pa.Table]) -> pa.Table:
    """Tables as one; a column that only some of them have is null in the others, and one that is empty is left out."""
    joined = pa.concat_tables(parts, promote_options="default")
    optional = {COLUMN.name} if "file_name" in joined.schema.names else {SOURCE_ID.name}
    for name in optional & set(joined.schema.names):
        joined = tables.without_empty(joined, name)
    return joined


def _set(table: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    place = table.schema.names.index(name)
    return table.set_column(place, table.schema.field(place), column)


def _categories(parts: Sequence[Part]) -> pa.Table:
    """Unite the categories: given ids stay, names without them are sorted and counted after them."""
    rows: dict[int, dict[str, Any]] = {}
    for part in parts:
        if part.has_category_ids:
            rows = {**_agreeing(part, rows), **rows}
    named = {row["name"] for row in rows.values()}
    names = {name for part in parts if not part.has_category_ids for name in _used(part)} - named
    first = max(rows, default=0) + 1
    counted = [{"category_id": first + i, "name": name} for i, name in enumerate(sorted(names))]
    schema = tables.CATEGORIES.append(SOURCE_ID)
    joined = tables.from_rows([*(rows[number] for number in sorted(rows)), *counted], schema)
    return tables.without_empty(joined, SOURCE_ID.name)


def _used(part: Part) -> list[str]:
    listed: list[str] = part.content.categories["name"].to_pylist()
    used = set(pc.unique(part.content.annotations["category"]).to_pylist())
    return [name for name in listed if name in used]


def _agreeing(part: Part, others: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return the part's categories by id, after comparing them with those of the other parts."""
    own = {int(row["category_id"]): row for row in part.content.categories.to_pylist()}
    ids = {row["name"]: number for number, row in others.items()}
    expected = f"expected the same categories in the splits of one dataset; {REMEDY}"
    for number, row in own.items():
        name, there = row["name"], others.get(number)
        if there is not None and there["name"] != name:
            raise DatasetError(
                f"category {number} is {name!r} in {part.name}, {there['name']!r} in another split: {expected}"
            )
        if there is None and name in ids:
            raise DatasetError(
                f"category {name!r} is {number} in {part.name}, {ids[name]} in another split: {expected}"
            )
    return own


def _with_categories(part: Part, categories: pa.Table) -> Part:
    """Exchange ids that were only counted for those of the united categories."""
    if part.has_category_ids:
        return part
    annotations = part.content.annotations
    place = pc.index_in(annotations["category"], value_set=categories["name"].combine_chunks(), skip_nulls=True)
    ids = categories["category_id"].combine_chunks().take(place.combine_chunks())
    return replace(part, content=replace(part.content, annotations=_set(annotations, "category_id", ids)))
