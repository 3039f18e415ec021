"""Validation inside of the loop: the best checkpoint, early stopping, and the figures of a resumed run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardlens.flows.synthetic_shapes import draw_dataset
from shardlens.pipeline import storage
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig, resolve
from shardlens.pipeline.train import train
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.loop import LocalWorker, fit
from shardlens.pipeline.training.prepare import prepare
from shardlens.pipeline.training.state import digest
from shardlens.pipeline.warehouse import tables
from tests.training.test_state import interrupted, rows

Make = Callable[..., TrainConfig]


@pytest.fixture
def split(tmp_path: Path, warehouse: str) -> str:
    """The dataset `split`: eight images to train on, four to validate on, to tell shapes and ground apart."""
    draw_dataset(tmp_path / "split", {"train": 8, "val": 4}, size=32)
    with open_executor() as executor:
        place = str(tmp_path / "split")
        for name in ("train", "val"):
            images, truth = f"{place}/{name}/images", f"{place}/instances_{name}.json"
            ingest(IngestConfig("split", images=images, annotations=truth, split=name, warehouse=warehouse), executor)
    return warehouse


UNET = {"dataset": "split", "model": "unet", "option": ("depth=2", "width=4"), "batch_size": 4, "learning_rate": 1e-2}


def test_the_best_checkpoint_is_published_and_kept(config: Make, split: str) -> None:
    report = train(config(**UNET, epochs=6, keep=1, ema=0.5))
    document = storage.read(f"{split}/checkpoints/r/train.json")
    assert b'"validations"' in document
    best = f"{split}/checkpoints/r/step-{int(report.best['step']):06d}"
    assert digest(storage.read(f"{best}/model.safetensors")) == report.sha256
    assert resolve(NetworkConfig(weights=report.checkpoint)).sha256 == report.sha256
    table = tables.from_bytes(storage.read(f"{split}/checkpoints/r/metrics.parquet"))
    assert sorted(set(table["epoch"].to_pylist())) == [1, 2, 3, 4, 5, 6]
    dice = {r["epoch"]: r["value"] for r in table.to_pylist() if r["metric"] == "Dice" and r["category_id"] is None}
    assert max(dice.values()) == dice[report.best["epoch"]] == report.best["Dice"]


def test_a_run_that_gets_no_better_ends_early(config: Make, split: str) -> None:
    standstill: dict[str, Any] = {**UNET, "learning_rate": 1e-30, "weight_decay": 0}
    trained = fit(prepare(config(**standstill, epochs=9, patience=2)), LocalWorker())
    assert [found["epoch"] for found in trained.validations] == [1, 2, 3]
    assert (trained.best_step, trained.steps, len(trained.losses)) == (2, 6, 3)


@pytest.mark.parametrize("at", [3, 6])
def test_a_resumed_run_validates_as_an_undisturbed_one(config: Make, split: str, at: int) -> None:
    settings = {**UNET, "epochs": 4, "validate_every": 2, "checkpoint_every": 1, "ema": 0.5}
    whole, job = prepare(config(run="whole", **settings)), prepare(config(run="cut", **settings))
    expected = fit(whole, LocalWorker())
    interrupted(job, at)
    found = fit(job, LocalWorker())
    assert found.validations == expected.validations
    assert (found.sha256, rows(job)) == (expected.sha256, rows(whole))
