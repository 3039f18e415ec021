from __future__ import annotations

from collections.abc import Callable

from shardlens.pipeline import storage
from shardlens.pipeline.training import scores
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.prepare import prepare
from shardlens.pipeline.warehouse import tables


def test_each_validation_counts_once_and_those_of_an_attempt_left_behind_do_not(
    config: Callable[..., TrainConfig],
) -> None:
    job = prepare(config())
    for epoch, step, value in ((1, 2, 0.1), (2, 4, 0.2), (2, 4, 0.25), (3, 5, 0.9)):
        rows = [{"task": "bbox", "metric": "AP", "value": value, "support": 3}]
        scores.publish(job, epoch, step, rows)
    joined = scores.join(job, [2, 4])
    stored = tables.from_bytes(storage.read(f"{job.folder}/metrics.parquet"))
    assert stored.equals(joined)
    assert stored.schema.equals(tables.METRICS)
    assert stored.select(["run", "dataset", "epoch", "step", "value"]).to_pylist() == [
        {"run": "r", "dataset": "shapes", "epoch": 1, "step": 2, "value": 0.1},
        {"run": "r", "dataset": "shapes", "epoch": 2, "step": 4, "value": 0.25},
    ]


def test_a_run_without_validations_has_an_empty_table(config: Callable[..., TrainConfig]) -> None:
    assert scores.join(prepare(config()), []).num_rows == 0
