"""Ids of images stay from version to version: a known image keeps its id, and no id is ever given to another image.

An image is known by its place: its URI, and within a tar its name. One that was moved is known again by its name
if its first bytes are the same, or by its name and its id in the dataset's own file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline.annotations.coco_ids import unused
from shardlens.pipeline.annotations.digests import spots_of
from shardlens.pipeline.annotations.json_values import INT64
from shardlens.pipeline.warehouse import tables

Ints = npt.NDArray[np.int64]
UNKNOWN = -(1 << 63)
"""No image has this id."""
BY_PLACE = (("place", "split", "source_id"), ("place", "split"), ("place",))
"""Keys that are tried one after the other."""
BY_CONTENT = (("split", "file_name", "head"), ("file_name", "head"))
BY_SOURCE = ("split", "file_name", "source_id")


@dataclass(frozen=True)
class Known:
    """The images that a dataset has or had, and which of its ids are given."""

    images: pa.Table
    """Rows of `tables.REMOVED`: images whose ids may be given back to them."""
    given: Ints
    """Every id that was ever given."""


def known_rows(images: pa.Table, digests: Sequence[pa.Table] = ()) -> pa.Table:
    """Rows of `tables.REMOVED` from rows of `tables.IMAGES`; `digests` tell their first bytes."""
    heads = pa.nulls(images.num_rows, pa.binary())
    for table in digests:
        heads = pc.coalesce(_heads(images, table), heads)
    columns = {name: images[name] for name in tables.REMOVED.names if name != "head"}
    return pa.table({**columns, "head": heads}).select(tables.REMOVED.names).cast(tables.REMOVED)


def _heads(images: pa.Table, digests: pa.Table) -> pa.Array:
    """The digest of each image's first bytes; null = unknown."""
    place = pc.index_in(spots_of(images), value_set=spots_of(digests), skip_nulls=True)
    return digests["head"].combine_chunks().take(place)


def image_ids(new: pa.Table, known: Known, preferred: npt.NDArray[np.bool_]) -> Ints:
    """Give each image of `new` the id that it had, else its own if that is free, else the next one.

    Args:
        new: rows of `tables.REMOVED`; image_id is the format's own, or a number without meaning.
        preferred: (N,) whether an image_id is the format's own.

    Returns:
        (N,) ids, each once.
    """
    ids = np.full(new.num_rows, UNKNOWN)
    if known.images.num_rows:
        _recognize(new, known.images, ids)
    own: Ints = new["image_id"].to_numpy()
    free = (ids == UNKNOWN) & preferred & ~np.isin(own, known.given)
    ids[free] = own[free]
    left = np.flatnonzero(ids == UNKNOWN)
    if len(left):
        order = new.take(pa.array(left)).append_column("row", pa.array(left))
        rows = order.sort_by([(key, "ascending") for key in ("file_name", "split", "uri", "offset")])["row"].to_numpy()
        ids[rows] = _next(np.concatenate([known.given, ids[ids != UNKNOWN]]), len(rows))
    return ids


def _next(taken: Ints, count: int) -> list[int]:
    top = int(taken.max(initial=0))
    return list(range(top + 1, top + 1 + count)) if top + count < INT64 else unused(taken.tolist(), count)


def _recognize(new: pa.Table, known: pa.Table, ids: Ints) -> None:
    """Fill in the ids of the images that are known."""
    left, free = np.arange(new.num_rows), np.arange(known.num_rows)
    for key in BY_PLACE:
        left, free = _matched(new, known, ids, (left, free), key)
    for key in BY_CONTENT:
        left, free = _matched(new, known, ids, (left, free), key, unique=True)
    unread = new["head"].is_null().to_numpy()[left]
    _, free = _matched(new, known, ids, (left[unread], free), BY_SOURCE, unique=True)
    free = free[known["head"].is_null().to_numpy()[free]]
    _matched(new, known, ids, (left[~unread], free), BY_SOURCE, unique=True)


def _matched(
    new: pa.Table,
    known: pa.Table,
    ids: Ints,
    rows: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]],
    key: Sequence[str],
    unique: bool = False,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Match the rows that agree in `key`, each with one other; return those that are left.

    Args:
        unique: leave keys alone that several rows have.
    """
    left, free = rows
    while len(left) and len(free):
        mine, theirs = (_keys(table.take(pa.array(some)), key) for table, some in ((new, left), (known, free)))
        if unique:
            mine, theirs = _once(mine), _once(theirs)
        place = pc.index_in(mine, value_set=theirs, skip_nulls=True)
        hits = np.flatnonzero(place.is_valid().to_numpy(zero_copy_only=False))
        if not len(hits):
            break
        partners = place.take(pa.array(hits)).to_numpy()
        partners, first = np.unique(partners, return_index=True)
        hits = hits[first]
        ids[left[hits]] = known["image_id"].to_numpy()[free[partners]]
        left, free = np.delete(left, hits), np.delete(free, partners)
    return left, free


def _once(keys: pa.Array) -> pa.Array:
    """The keys, null where several rows have the same."""
    counts = keys.value_counts()
    several = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    return pc.if_else(pc.is_in(keys, value_set=several), pa.scalar(None, keys.type), keys)


def _keys(rows: pa.Table, key: Sequence[str]) -> pa.Array:
    """A text for each row; null if it has no such key."""
    columns = [_key_column(rows, name).cast(pa.binary()) for name in key]
    joined = pc.binary_join_element_wise(*columns, pa.scalar(b"\0", pa.binary()))
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def _key_column(rows: pa.Table, name: str) -> pa.ChunkedArray:
    if name == "place":
        inside = pc.binary_join_element_wise(rows["uri"], rows["file_name"], "\0")
        return pc.if_else(rows["offset"].is_valid(), inside, rows["uri"])
    if name == "split":
        return rows["split"].fill_null("")
    return rows[name]
