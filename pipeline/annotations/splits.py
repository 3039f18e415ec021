"""Splits that were ingested one by one become one dataset: ids that formats gave stay, the others are counted anew.

The result does not depend on the order of the ingests.
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
from shardlens.pipeline.annotations.frame import COLUMN
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.warehouse import tables

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


def merge(parts: Sequence[Part]) -> Assembled:
    """Put `parts`, of different splits, into one dataset.

    Raises:
        DatasetError: ids that formats gave clash, or categories do not agree by id and name.
    """
    categories = _categories(parts)
    parts = [_with_categories(part, categories) for part in parts]
    given = [part for part in parts if part.has_ids]
    for kind in ("image", "annotation"):
        _refuse_clashes(given, kind)
    counted = _counted([part for part in parts if not part.has_ids], given)
    contents = [*(part.content for part in given), *counted]
    return Assembled(
        by_ids(_joined([content.images for content in contents]), "image_id"),
        by_ids(_joined([content.annotations for content in contents]), "image_id", "annotation_id"),
        categories,
    )


def _ids(content: Assembled, kind: str) -> npt.NDArray[np.int64]:
    table = content.images if kind == "image" else content.annotations
    ids: npt.NDArray[np.int64] = table[f"{kind}_id"].to_numpy()
    return ids


def _refuse_clashes(given: Sequence[Part], kind: str) -> None:
    for i, one in enumerate(given):
        for other in given[i + 1 :]:
            both = np.intersect1d(_ids(one.content, kind), _ids(other.content, kind))
            if len(both):
                raise DatasetError(
                    f"{len(both)} {kind} ids are both in {one.name} and in {other.name}, such as {both[:3].tolist()}: "
                    f"expected ids of their own in the splits of one dataset; {REMEDY}"
                )


def _counted(parts: Sequence[Part], given: Sequence[Part]) -> list[Assembled]:
    """Number images in the order of their file names, and their annotations, after the ids that formats gave."""
    if not parts:
        return []
    first = {
        kind: max((int(_ids(p.content, kind).max(initial=0)) for p in given), default=0) + 1
        for kind in ("image", "annotation")
    }
    numbered = [
        part.content.images.append_column("part", pa.array(np.full(part.content.images.num_rows, index)))
        for index, part in enumerate(parts)
    ]
    images = _joined(numbered).sort_by([(key, "ascending") for key in ("file_name", "split", "uri", "offset")])
    owners, old = images["part"].to_numpy(), images["image_id"].to_numpy()
    new = first["image"] + np.arange(images.num_rows)
    owned = [_owned(part.content.annotations, old[owners == i], new[owners == i]) for i, part in enumerate(parts)]
    annotations = by_ids(_joined(owned), "image_id", "annotation_id")
    ids = pa.array(first["annotation"] + np.arange(annotations.num_rows))
    annotations = _set(annotations, "annotation_id", ids)
    images = _set(images.drop_columns(["part"]), "image_id", pa.array(new))
    return [Assembled(images, annotations, parts[0].content.categories)]


def _owned(annotations: pa.Table, old: npt.NDArray[np.int64], new: npt.NDArray[np.int64]) -> pa.Table:
    """Exchange the images' old ids for the new."""
    order = np.argsort(old)
    places = np.searchsorted(old[order], annotations["image_id"].to_numpy())
    return _set(annotations, "image_id", pa.array(new[order][places]))


def _joined(parts: Sequence[pa.Table]) -> pa.Table:
    """Tables as one; a column that only some of them have is null in the others, and one that is empty is left out."""
    joined = pa.concat_tables(parts, promote_options="default")
    for name in {COLUMN.name, tables.SOURCE_ID.name} & set(joined.schema.names):
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
    schema = tables.CATEGORIES.append(tables.SOURCE_ID)
    joined = tables.from_rows([*(rows[number] for number in sorted(rows)), *counted], schema)
    return tables.without_empty(joined, tables.SOURCE_ID.name)


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
