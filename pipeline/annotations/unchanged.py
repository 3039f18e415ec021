"""Images that have not changed since the latest version of their dataset: what was read of them then holds still.

Without etags and times in the store, their names and sizes decide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline import storage
from shardlens.pipeline.annotations.digests import DIGESTS, FILE, spots_of
from shardlens.pipeline.images.header import Header
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.datasets import latest, version_of
from shardlens.pipeline.warehouse.layout import Warehouse


@dataclass(frozen=True)
class Unchanged:
    """What is known of the images of an ingest."""

    known: npt.NDArray[np.bool_]
    """(N,) whether an image is known."""
    rows: pa.Table
    """Rows of `digests.DIGESTS` of the known ones, in their order."""

    @classmethod
    def none(cls, images: int) -> Unchanged:
        """Nothing is known of any image."""
        return cls(np.zeros(images, bool), tables.empty(DIGESTS))

    @classmethod
    def since_latest(cls, images: pa.Table, warehouse: Warehouse, name: str) -> Unchanged:
        """Compare listed images, with `bytes` and `etag`, with what the latest version of a dataset says."""
        pointer = latest(warehouse, name)
        if pointer is None:
            return cls.none(images.num_rows)
        place = storage.join(warehouse.dataset(name, version_of(warehouse, name, pointer)), FILE)
        if not storage.exists(place):
            return cls.none(images.num_rows)
        before = tables.completed(tables.from_bytes(storage.read(place)), DIGESTS)
        before = before.filter(pc.and_(before["width"].is_valid(), before["head"].is_valid())).combine_chunks()
        there = pc.index_in(spots_of(images), value_set=spots_of(before), skip_nulls=True)
        old = before.take(there)
        etags = pc.or_(
            pc.equal(old["etag"], images["etag"]).fill_null(False),
            pc.and_(old["etag"].is_null(), images["etag"].is_null()),
        )
        same = pc.and_(etags, pc.equal(old["bytes"], images["bytes"]).fill_null(False))
        return cls(same.to_numpy(), old.filter(same).combine_chunks())

    def headers(self) -> list[Header]:
        """What the headers of the known images said."""
        columns = (self.rows[name].to_pylist() for name in ("width", "height", "orientation", "deep"))
        return [Header(*row) for row in zip(*columns, strict=True)]

    def heads(self) -> list[bytes | None]:
        """Digests of their first bytes."""
        found: list[bytes | None] = self.rows["head"].to_pylist()
        return found

    def note(self) -> str:
        """A sentence where names and sizes alone decided."""
        blind = self.rows["etag"].null_count
        if not blind:
            return ""
        return (
            f"the store gives neither tags nor times of {blind} images: they are taken as unchanged by their names and sizes; "
            "ingest with --full reads them again"
        )
