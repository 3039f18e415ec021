"""The figures of a run's validations as rows of `tables.METRICS`: a part for each, joined when the run ends.

::

    checkpoints/<run>/validations/step-000123.parquet   of one validation, every category; written again by a resumed run
                      metrics.parquet                   those of all validations that the run counts, in their order
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from shardlens.pipeline import storage
from shardlens.pipeline.training.job import TrainJob
from shardlens.pipeline.warehouse import tables

METRICS = "metrics.parquet"


def publish(job: TrainJob, epoch: int, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows of a validation (`Validator.rows`), made after `step` steps and `epoch` epochs."""
    made = {"run": job.run, "dataset": job.config.dataset, "epoch": epoch, "step": step}
    table = tables.from_rows([{**made, **row} for row in rows], tables.METRICS)
    storage.publish(_part(job, step), tables.to_bytes(table))


def join(job: TrainJob, steps: Sequence[int]) -> pa.Table:
    """Write and give the rows of the validations after `steps`, and of no others: each counts once, whatever was resumed.

    Raises:
        StorageError: a part is not there any more, or damaged.
    """
    parts = [tables.from_bytes(storage.read(_part(job, step))) for step in steps]
    table = pa.concat_tables([tables.METRICS.empty_table(), *parts])
    storage.publish(storage.join(job.folder, METRICS), tables.to_bytes(table))
    return table


def _part(job: TrainJob, step: int) -> str:
    return storage.join(job.folder, "validations", f"step-{step:06d}.parquet")
