"""Which version of a dataset is the truth of a run, and whether its annotations have changed since the run."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline.errors import RunError
from shardlens.pipeline.metrics.objects import Ints
from shardlens.pipeline.metrics.truth_by_shard import TRUTH
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.runs import RunRecord

RUN, LATEST = "run", "latest"
IDENTITY = ("file_name", "width", "height", "bytes", "etag")
"""Columns of the images by which an image of another version is the same, as far as both versions know them."""


def open_truth(record: RunRecord, wanted: str, run_ids: Ints) -> Dataset:
    """Open the version whose annotations a run is scored by.

    Args:
        wanted: run: the version that was predicted; latest; or a version by name.
        run_ids: (N,) ascending image_ids of the run.

    Raises:
        RunError: the images or the categories of that version are not those of the run.
        DatasetError: there is no such version.
    """
    own = Dataset.open(record.warehouse, record.dataset, record.dataset_version)
    if wanted == RUN:
        return own
    dataset = Dataset.open(record.warehouse, record.dataset, None if wanted == LATEST else wanted)
    if dataset.version == own.version:
        return own
    where = f"run {record.name!r} cannot be scored by version {dataset.version} of dataset {dataset.name}"
    differing = changed_images(own.images, dataset.images, run_ids)
    if differing:
        raise RunError(
            f"{where}: {len(differing)} of its {len(run_ids)} images are missing there or are other files, such as "
            f"{', '.join(differing[:3])}; predict that version with 'shardlens predict {dataset.name}@{dataset.version} ...'"
        )
    names = [
        dict(zip(*(d.categories[k].to_pylist() for k in ("category_id", "name")), strict=True)) for d in (own, dataset)
    ]
    renamed = [
        f"{i} ({names[0][i]}, there {names[1][i]})" for i in names[0] if names[1].get(i, names[0][i]) != names[0][i]
    ]
    if renamed:
        raise RunError(f"{where}: category ids mean other categories there: {', '.join(renamed[:3])}; predict it anew")
    return dataset


def changed_images(own: pa.Table, other: pa.Table, run_ids: Ints) -> list[str]:
    """File names of the run's images that `other` lacks, or knows as another file.

    Args:
        own: rows of `tables.IMAGES` of the run's version, sorted by image_id.
        other: the same of another version.
        run_ids: (N,) ascending.
    """
    there = np.isin(run_ids, other["image_id"].to_numpy())
    rows, others = (_rows(table, run_ids[there]) for table in (own, other))
    differs = np.zeros(rows.num_rows, dtype=bool)
    for name in IDENTITY:
        if name in rows.schema.names and name in others.schema.names:
            unequal = pc.fill_null(pc.not_equal(rows[name], others[name]), False)
            differs |= unequal.to_numpy(zero_copy_only=False) if isinstance(unequal, pa.Array) else unequal.to_numpy()
    names: list[str] = _rows(own, run_ids[~there])["file_name"].to_pylist()
    return names + [str(name) for name in rows["file_name"].filter(pa.array(differs)).to_pylist()]


def newer_truth(record: RunRecord, used: Dataset, run_ids: Ints) -> str | None:
    """The latest version, if it annotates the same images in another way than the version that was used."""
    newest = Dataset.open(record.warehouse, record.dataset)
    if newest.version == used.version or changed_images(used.images, newest.images, run_ids):
        return None
    truths = (_of_images(dataset.annotations, run_ids) for dataset in (used, newest))
    before, now = truths
    return None if before.equals(now) else newest.version


def _rows(images: pa.Table, ids: Ints) -> pa.Table:
    return images.take(np.searchsorted(images["image_id"].to_numpy(), ids))


def _of_images(annotations: pa.Table, ids: Ints) -> pa.Table:
    rows = annotations.select(list(TRUTH)).replace_schema_metadata(None)
    return rows.filter(pc.is_in(rows["image_id"], pa.array(ids))).combine_chunks()
