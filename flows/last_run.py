"""The run that a new one is compared with: the last one before it of the same dataset, model and settings that has metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shardlens.pipeline import storage
from shardlens.pipeline.evaluate import Evaluation
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.layout import Warehouse
from shardlens.pipeline.warehouse.runs import RunRecord

MAY_DIFFER = frozenset(
    {"images", "weights_sha256", "labels", "precision", "device", "threads", "batch_size", "shard_size"}
)
"""Settings of which the last run may have had others: its images, retrained weights, and what is tuned for speed."""
Means = dict[tuple[str, str], float]
"""Means over the categories: (task, metric) -> value, in the order of the table; undefined ones are left out."""


@dataclass(frozen=True)
class Change:
    """The headline metric of a task in two runs."""

    last_run: str
    task: str
    metric: str
    before: float
    now: float

    @property
    def fall(self) -> float:
        """By how much it fell, in the metric's own unit; negative if it rose."""
        return self.before - self.now


def changes(evaluation: Evaluation, warehouse: str) -> list[Change]:
    """How the first metric of each task changed against the last run; none if there is none to compare with.

    Raises:
        StorageError: the warehouse or the metrics of the last run cannot be read.
    """
    place = Warehouse(warehouse)
    last, metrics = _last_scored(place, runs.open_committed(place, evaluation.run))
    before, now = _means(metrics), _means(evaluation.metrics)
    first: dict[str, str] = {}
    for task, metric in now:
        first.setdefault(task, metric)
    return [
        Change(last, *headline, before[headline], now[headline]) for headline in first.items() if headline in before
    ]


def _last_scored(place: Warehouse, record: RunRecord) -> tuple[str, Any]:
    """Name and metrics of the latest run that was committed before `record` and is comparable; else no name, no rows."""
    times = {entry.name: entry.modified for entry in storage.walk(place.path("runs"))}

    def committed(run: RunRecord) -> tuple[float, str]:
        return times.get(f"{run.name}/commit.json", 0.0), run.name

    earlier = [run for run in runs.committed(place) if _comparable(run, record) and committed(run) < committed(record)]
    for run in sorted(earlier, key=committed, reverse=True):
        uri = storage.join(place.metrics(run.dataset, run.name), "metrics.parquet")
        if storage.exists(uri):
            return run.name, tables.from_bytes(tables.checked(uri, storage.read(uri)))
    return "", tables.empty(tables.METRICS)


def _comparable(run: RunRecord, record: RunRecord) -> bool:
    return run.dataset == record.dataset and _compared(run.settings) == _compared(record.settings)


def _compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in MAY_DIFFER}


def _means(metrics: Any) -> Means:
    rows = metrics.filter(metrics["category_id"].is_null()).to_pylist()
    return {(row["task"], row["metric"]): row["value"] for row in rows if row["value"] is not None}
