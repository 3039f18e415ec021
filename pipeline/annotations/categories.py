"""Settling categories: rows that carry an id get its name, rows that carry a name get its id, the rest is flagged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline.annotations.problems import Flags, Problems
from shardlens.pipeline.annotations.source import Categorized
from shardlens.pipeline.warehouse import tables


def table(names: Sequence[str]) -> pa.Table:
    """Make the category table of `names`, ids 1, 2, ..."""
    return tables.from_rows(
        [{"category_id": number, "name": name} for number, name in enumerate(names, 1)], tables.CATEGORIES
    )


def note_unused(unused: Sequence[str], named: int, problems: Problems) -> None:
    """Note the classes that were named and never occur."""
    if unused:
        more = ", ..." if len(unused) > 8 else ""
        problems.note(f"{len(unused)} of the {named} classes named never occur: {', '.join(unused[:8])}{more}")


@dataclass(frozen=True)
class ById:
    """Rows carry `category_id`; `categories` says the names."""

    categories: pa.Table
    keeps_names: bool = False
    """Whether rows without an id keep the name that they carry."""

    def __call__(self, annotations: pa.Table, problems: Problems) -> Categorized:
        """Fill `category`; an id that is not listed becomes the category's name, without id."""
        ids = annotations["category_id"].combine_chunks()
        place = pc.index_in(ids, value_set=self.categories["category_id"].combine_chunks())
        names = self.categories["name"].combine_chunks().take(place)
        unknown = pc.and_(pc.is_valid(ids), pc.is_null(place))
        if self.keeps_names:
            names = pc.coalesce(names, annotations["category"].combine_chunks())
        names = pc.if_else(unknown, pc.cast(ids, pa.string()), names)
        return _settled(
            annotations,
            pc.if_else(unknown, pa.scalar(None, pa.int64()), ids),
            names,
            unknown,
            self.categories,
            problems,
        )


@dataclass(frozen=True)
class ByName:
    """Rows carry `category`; the names are `names`, or where that is empty all that occur, sorted."""

    names: tuple[str, ...] = ()

    def __call__(self, annotations: pa.Table, problems: Problems) -> Categorized:
        """Fill `category_id`."""
        found = annotations["category"].combine_chunks()
        there = set(pc.unique(pc.drop_null(found)).to_pylist())
        categories = table(self.names or sorted(there))
        if annotations.num_rows:
            note_unused([name for name in self.names if name not in there], len(self.names), problems)
        place = pc.index_in(found, value_set=pc.cast(categories["name"].combine_chunks(), pa.string()), skip_nulls=True)
        ids = categories["category_id"].combine_chunks().take(place)
        return _settled(annotations, ids, found, pc.is_null(place), categories, problems)


def _settled(
    annotations: pa.Table, ids: pa.Array, names: pa.Array, unknown: pa.Array, categories: pa.Table, problems: Problems
) -> Categorized:
    columns = annotations.schema.names
    settled = annotations.set_column(columns.index("category_id"), tables.ANNOTATIONS.field("category_id"), ids)
    settled = settled.set_column(columns.index("category"), tables.ANNOTATIONS.field("category"), names)
    mask = np.asarray(unknown.to_numpy(zero_copy_only=False), dtype=bool)
    if mask.any():
        flags = Flags(annotations["flags"])
        flags.mark("unknown-category", mask)
        problems.add("unknown-category", int(mask.sum()), _strangers(names.filter(unknown), categories))
        settled = settled.set_column(columns.index("flags"), tables.ANNOTATIONS.field("flags"), flags.column())
    return Categorized(categories, settled)


def _strangers(names: pa.Array, categories: pa.Table) -> list[str]:
    """Say of each name that is not listed how often it occurs."""
    listed = categories["name"].to_pylist()
    expected = f"expected one of {', '.join(listed[:8])}{', ...' if len(listed) > 8 else ''}"
    counts = {found["values"]: found["counts"] for found in pc.value_counts(names).to_pylist()}
    return [f"category {name!r}, {counts[name]} times: {expected}" for name in sorted(counts, key=str)]
