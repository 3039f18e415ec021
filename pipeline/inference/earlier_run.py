"""A run over a newer version of a dataset takes the rows of unchanged images from an earlier run of the same settings.

Which run that is stands in the record of the new one, so that whoever resumes it takes the same. Its rows are copied into
the new run's own parts, shard by shard: the earlier run can be deleted afterwards. Where its parts are gone or damaged, the
images are predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline import storage
from shardlens.pipeline.errors import DatasetError, RunError, StorageError
from shardlens.pipeline.images.shards import Shard, plan
from shardlens.pipeline.inference.shard_work import Carried
from shardlens.pipeline.networks.labels import LabelMap, match
from shardlens.pipeline.warehouse import runs
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.runs import RunRecord

SAME = ("file_name", "offset", "length", "width", "height", "bytes", "etag")
"""Columns of `tables.IMAGES` that an unchanged image has alike in both versions."""
OF_VERSION = frozenset({"images", "full"})
"""Settings in which the two runs may differ."""
CARRIED_FROM = "carried_from"
"""Where the record of the new run names the earlier one."""
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class EarlierRun:
    """What the new run takes over."""

    record: RunRecord | None = None
    image_ids: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    """Ascending ids of the images that are the same in both runs."""
    shards: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    """(N,) the shard of the earlier run that each of them is in."""

    def of(self, shard: Shard) -> Carried | None:
        """What the earlier run has of a shard."""
        if self.record is None:
            return None
        wanted = np.array([image.image_id for image in shard.images], dtype=np.int64)
        places = np.flatnonzero(np.isin(self.image_ids, wanted, assume_unique=True))
        if len(places) == 0:
            return None
        parts = tuple(self.record.parts[i] for i in np.unique(self.shards[places]).tolist())
        warehouse, of_run = self.record.warehouse, (self.record.dataset, self.record.name)
        ids = frozenset(self.image_ids[places].tolist())
        return Carried(warehouse.predictions(*of_run), warehouse.outcomes(*of_run), parts, ids)


def newest(record: RunRecord) -> str | None:
    """Name of the run that was committed last, among those of the same settings over another version of the dataset."""
    wanted = _identity(record.settings)
    begun = [
        each
        for each in runs.every(record.warehouse)
        if each.commit is not None
        and each.dataset == record.dataset
        and each.dataset_version != record.dataset_version
        and _identity(each.settings) == wanted
    ]
    if not begun:
        return None
    entries = storage.walk(record.warehouse.path("runs"))
    committed = {entry.name: entry.modified for entry in entries if entry.name.endswith("/commit.json")}
    return max(begun, key=lambda each: (committed.get(f"{each.name}/commit.json", 0.0), each.name)).name


def open_earlier(record: RunRecord, images: pa.Table, labels: LabelMap) -> EarlierRun:
    """Open the run that `record` takes rows from; an empty one if there is none, or if it is gone.

    Args:
        images: rows of `tables.IMAGES` that `record` is over.
        labels: what its network's labels are called, which must be the same in the earlier run.
    """
    name = record.origin.get(CARRIED_FROM)
    if not isinstance(name, str):
        return EarlierRun()
    try:
        earlier = runs.open_committed(record.warehouse, name)
        dataset = Dataset.open(record.warehouse, earlier.dataset, earlier.dataset_version)
        before = plan(dataset.images, record.settings["shard_size"], record.settings["split"])
        same_labels = match(record.labels, dataset.categories) == labels
    except (RunError, DatasetError, StorageError):
        return EarlierRun()
    if not same_labels or len(before) != len(earlier.parts):
        return EarlierRun()
    rows = unchanged(before.images, images)
    ids: Ints = before.images["image_id"].to_numpy()[rows]
    return EarlierRun(earlier, ids, rows // before.shard_size)


def unchanged(before: pa.Table, now: pa.Table) -> Ints:
    """(N,) rows of `before` that are in `now` as well, as they were.

    Of images without a size nothing is known: they are missing, or were ingested by an earlier version of Shardlens.

    Args:
        before: rows of `tables.IMAGES`, sorted by image_id.
        now: likewise, of another version.
    """
    places = pc.index_in(before["image_id"], value_set=now["image_id"].combine_chunks()).combine_chunks()
    rows = np.flatnonzero(places.is_valid().to_numpy(zero_copy_only=False))
    there = places.drop_null()
    same: npt.NDArray[np.bool_] = before["bytes"].combine_chunks().is_valid().to_numpy(zero_copy_only=False)[rows]
    for name in SAME:
        same &= _equal(before[name].combine_chunks().take(pa.array(rows)), now[name].combine_chunks().take(there))
    return rows[same]


def _identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in OF_VERSION}


def _equal(first: pa.Array, second: pa.Array) -> npt.NDArray[np.bool_]:
    """(N,) whether values are equal, or both null."""
    nulls = [column.is_null().to_numpy(zero_copy_only=False) for column in (first, second)]
    equal: npt.NDArray[np.bool_] = pc.fill_null(pc.equal(first, second), False).to_numpy(zero_copy_only=False)
    same: npt.NDArray[np.bool_] = equal | (nulls[0] & nulls[1])
    return same
