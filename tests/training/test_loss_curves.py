"""Short loss curves, checked in: a change of the recipe, the losses, the order or the data is seen.

After a change that was meant, `python -m tests.training.test_loss_curves` draws them anew.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardlens.flows.synthetic_shapes import draw_dataset
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.loop import LocalWorker, fit
from shardlens.pipeline.training.prepare import prepare
from tests.training.test_loop import losses

FOLDER = Path(__file__).parent / "curves"
SETTINGS: dict[str, dict[str, Any]] = {
    "fcos_small": {"option": ("width=8", "min_size=64")},
    "unet": {"option": ("depth=2", "width=4")},
}
COMMON: dict[str, Any] = {"epochs": 4, "batch_size": 4, "learning_rate": 5e-3, "flip": False}
SAME = 1e-2
"""Relative: other CPUs round otherwise, and sixteen steps enlarge that; the losses themselves fall by much more."""


@pytest.mark.parametrize("model", list(SETTINGS))
def test_the_losses_fall_as_they_did(config: Callable[..., TrainConfig], model: str) -> None:
    job = prepare(config(model=model, **SETTINGS[model], **COMMON))
    fit(job, LocalWorker())
    expected = json.loads((FOLDER / f"{model}.json").read_text())
    assert losses(job) == pytest.approx(expected, rel=SAME)
    assert expected[-1] < 0.8 * expected[0]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary, open_executor() as executor:
        drawn, warehouse = Path(temporary) / "shapes", f"{temporary}/warehouse"
        draw_dataset(drawn, {"train": 16}, size=64)
        images, truth = str(drawn / "train/images"), str(drawn / "instances_train.json")
        ingest(IngestConfig("shapes", images=images, annotations=truth, split="train", warehouse=warehouse), executor)
        FOLDER.mkdir(exist_ok=True)
        for name, settings in SETTINGS.items():
            made = prepare(TrainConfig("shapes", model=name, warehouse=warehouse, **settings, **COMMON))
            fit(made, LocalWorker())
            (FOLDER / f"{name}.json").write_text(json.dumps([round(loss, 6) for loss in losses(made)]) + "\n")
