"""The table of tasks: a task that is added from outside is scored by every part that scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from shardlens.models.tasks import MODEL_TASKS
from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.metrics import tasks
from shardlens.pipeline.metrics.tasks import SCORED_BY, TASKS, ScoringTask, metric_names
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.metrics.coco_sets import random_set
from tests.test_evaluate import write_dataset, write_run


@dataclass(frozen=True)
class Ratio:
    """Predictions for each object of the truth: what a file of one's own would hold."""

    truth: int
    found: int

    def rows(self, categories: Sequence[tuple[int, str]]) -> Iterator[dict[str, Any]]:
        yield {"task": "counts", "metric": "ratio", "value": self.found / self.truth, "support": self.truth}

    def curve_rows(self, categories: Sequence[tuple[int, str]]) -> Iterator[dict[str, Any]]:
        return iter(())


COUNTS = ScoringTask(
    "counts",
    needs=frozenset({"box"}),
    partial=lambda scope, truth, predictions, rules: {
        "truth": np.array(truth.num_rows),
        "found": np.array(predictions.num_rows),
    },
    merge=lambda partials, categories, rules: Ratio(*(sum(int(p[k]) for p in partials) for k in ("truth", "found"))),
    metrics=("ratio",),
    masks=False,
)


@pytest.fixture
def counted(monkeypatch):
    """The line that adds the task, and the one that says whose it is."""
    monkeypatch.setitem(tasks.TASKS, COUNTS.name, COUNTS)
    monkeypatch.setitem(tasks.SCORED_BY, "detection", ("counts", "bbox"))


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("shards", [1, 5])
def test_a_task_added_from_outside_is_scored_with_one_entry_in_the_table(tmp_path, shards):
    warehouse = Warehouse(str(tmp_path))
    warehouse.create()
    coco_set = random_set(np.random.default_rng(4))
    write_dataset(warehouse, coco_set)
    write_run(warehouse, coco_set, shards=shards)
    evaluation = evaluate(EvaluateConfig("r1", warehouse=warehouse.root), LocalExecutor())
    assert evaluation.tasks == ("counts", "bbox")
    expected = len(coco_set.predictions) / len(coco_set.annotations)
    assert evaluation.summary()[0] == ("counts", "ratio", expected)
    assert evaluation.metrics.schema == tables.METRICS


@pytest.mark.usefixtures("counted")
def test_a_task_added_from_outside_can_choose_the_best_checkpoint():
    assert metric_names("detection")[-1] == "counts/ratio"


def test_every_model_is_scored_by_tasks_of_the_table():
    assert SCORED_BY.keys() == MODEL_TASKS.keys()
    assert all(task in TASKS for wanted in SCORED_BY.values() for task in wanted)


def test_the_own_metrics_of_a_model_come_first():
    names = metric_names("instance")
    assert names[0] == "AP"
    assert "bbox/AP50" in names
    assert metric_names("panoptic")[:3] == ("PQ", "SQ", "RQ")
    assert metric_names("semantic") == ("Dice", "IoU", "accuracy", "pixel_accuracy")
