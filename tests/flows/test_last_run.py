"""Which run a new one is compared with, and by which metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shardlens.flows.last_run import Change, changes
from shardlens.pipeline import storage
from shardlens.pipeline.evaluate import Evaluation
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.small_warehouse import add_dataset, add_run, create

ROWS = (("bbox", "AP"), ("bbox", "AP50"), ("segm", "AP"))


@pytest.fixture
def place(tmp_path: Path) -> Warehouse:
    warehouse = create(str(tmp_path))
    add_dataset(warehouse)
    return warehouse


def scored(place: Warehouse, name: str, *values: float | None, dataset: str = "shapes", **settings: Any) -> Evaluation:
    """Commit a run with values of the metrics in `ROWS`, and of a category; without values it is not scored."""
    add_run(place, name, [[0.9], [0.5]], dataset, **settings)
    plain = {"run": name, "dataset": dataset, "support": 6}
    means = [
        {**plain, "task": task, "metric": metric, "value": value}
        for (task, metric), value in zip(ROWS, values, strict=False)
    ]
    of_category = {**plain, "task": "bbox", "metric": "AP", "value": 0.0, "category_id": 1, "category": "circle"}
    table = tables.from_rows([of_category, *means], tables.METRICS)
    uri = storage.join(place.metrics(dataset, name), "metrics.parquet")
    if values:
        storage.publish(uri, tables.to_bytes(table))
    return Evaluation(name, dataset, ("bbox",), table, table, uri, "", 2, 0, ())


def test_the_first_metric_of_each_task_is_compared_with_the_last_run(place: Warehouse) -> None:
    scored(place, "z-older", 0.9, 0.9, 0.9)
    scored(place, "b-last", 0.5, 0.7, 0.25, weights_sha256="before", precision="bf16")
    now = scored(place, "c-now", 0.25, 0.1, 0.5, weights_sha256="trained again", precision="fp32")
    scored(place, "a-later", 0.8, 0.8, 0.8)
    found = changes(now, str(place.root))
    assert found == [Change("b-last", "bbox", "AP", 0.5, 0.25), Change("b-last", "segm", "AP", 0.25, 0.5)]
    assert [change.fall for change in found] == [0.25, -0.25]


@pytest.mark.parametrize(
    "other", [{"dataset": "circles"}, {"model": "other"}, {"split": "train"}, {"score_threshold": 0.5}]
)
def test_runs_of_another_kind_are_not_compared(place: Warehouse, other: dict[str, Any]) -> None:
    add_dataset(place, "circles")
    scored(place, "last", 0.5, **other)
    assert changes(scored(place, "now", 0.25), str(place.root)) == []


def test_runs_that_were_not_scored_are_passed_over(place: Warehouse) -> None:
    scored(place, "first", 0.5)
    scored(place, "second")
    assert [change.last_run for change in changes(scored(place, "now", 0.25), str(place.root))] == ["first"]


def test_undefined_metrics_are_not_compared(place: Warehouse) -> None:
    scored(place, "last", None, 0.5)
    assert changes(scored(place, "now", 0.25, 0.5), str(place.root)) == []
    assert changes(scored(place, "later", None, 0.25), str(place.root)) == [Change("now", "bbox", "AP50", 0.5, 0.25)]
