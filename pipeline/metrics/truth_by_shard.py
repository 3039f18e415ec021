"""A run's truth, split by its shards: read and sorted once in the driver, sliced when a shard needs it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline.metrics.objects import Ints, Scope
from shardlens.pipeline.metrics.stage import ShardTruth

TRUTH = ("image_id", "category_id", "kind", "bbox", "area", "iscrowd", "ignore", "segmentation")
"""Columns of the annotations that metrics read."""


@dataclass(frozen=True)
class ShardedTruth:
    """The truth of a run's images, by shard."""

    annotations: pa.Table
    """The columns `TRUTH` of the run's images, shard after shard."""
    cuts: Ints
    """(shards + 1,) where each shard's rows begin."""
    scopes: list[Scope]
    """Images and categories of each shard."""

    def work(self, predictions: Sequence[str], partials: Sequence[str], missing: Sequence[int]) -> Iterator[ShardTruth]:
        """The shards named in `missing`, each with its slice of the truth; the URIs are by shard."""
        for shard in missing:
            yield ShardTruth(shard, predictions[shard], partials[shard], self.scopes[shard], _packed(self._of(shard)))

    def digest(self, shard: int) -> bytes:
        """SHA-256 of everything that a shard's partial depends on besides its predictions."""
        content = hashlib.sha256(_packed(self._of(shard)))
        scope = self.scopes[shard]
        for array in (scope.image_ids, scope.positions, scope.sizes_hw, scope.category_ids):
            content.update(str(array.shape).encode() + np.ascontiguousarray(array, dtype=np.int64).tobytes())
        return content.digest()

    def _of(self, shard: int) -> pa.Table:
        return self.annotations.slice(self.cuts[shard], self.cuts[shard + 1] - self.cuts[shard])


def split_truth(shards: Sequence[Ints], images: pa.Table, annotations: pa.Table, category_ids: Ints) -> ShardedTruth:
    """Split `annotations` by the shard of their image.

    Args:
        shards: image_ids of each shard, every image in one shard.
        images: rows of `tables.IMAGES`, sorted by image_id, the shards' images at least.
        annotations: rows of `tables.ANNOTATIONS`, sorted by image_id; those of other images are left out.
        category_ids: (K,) ascending, the categories that are scored.
    """
    run_ids = np.concatenate([np.zeros(0, dtype=np.int64), *shards])
    shard_of = np.repeat(np.arange(len(shards)), [len(ids) for ids in shards])
    by_id = np.argsort(run_ids, kind="stable")
    run_ids, shard_of = run_ids[by_id], shard_of[by_id]
    image_ids = annotations["image_id"].to_numpy()
    kept = np.flatnonzero(np.isin(image_ids, run_ids))
    row_shards = shard_of[np.searchsorted(run_ids, image_ids[kept])]
    order = np.argsort(row_shards, kind="stable")
    cuts = np.searchsorted(row_shards[order], np.arange(len(shards) + 1))
    rows = annotations.select(list(TRUTH)).take(kept[order])
    return ShardedTruth(rows, cuts, [_scope(np.sort(ids), run_ids, images, category_ids) for ids in shards])


def _scope(image_ids: Ints, run_ids: Ints, images: pa.Table, category_ids: Ints) -> Scope:
    rows = images.take(np.searchsorted(images["image_id"].to_numpy(), image_ids))
    sides = [pc.fill_null(rows[side], 0).to_numpy().astype(np.int64) for side in ("height", "width")]
    return Scope(image_ids, np.searchsorted(run_ids, image_ids), np.stack(sides, axis=1), category_ids)


def _packed(rows: pa.Table) -> bytes:
    """Arrow IPC of a slice alone; pickling would send the whole table that it is a slice of."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    data: bytes = sink.getvalue().to_pybytes()
    return data
