"""Every trainable detector takes a few steps through the real training path, and its loss falls; test_overfit.py goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from models import find
from pipeline.training.config import TrainConfig
from pipeline.training.job import prepare
from pipeline.training.loop import LocalWorker, fit
from tests.models.samples import sample_options
from tests.models.small import SMALL
from tests.training.overfits import TREES
from tests.training.test_loop import losses

NAMES = [
    *(name for name in SMALL if find(name).task == "detection"),
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "ssdlite320_mobilenet_v3_large",
]
"""Torchvision's others are large; tests/models/test_zoo.py takes them forward and back."""
STEPS = {"efficientdet": 12}
"""Steps of a network that needs more than four: its backbone drops blocks at random, more than a few steps make good."""
FILES = {name: TREES / f"shapes.{name}" for name in ("tree", "map")}


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_at_once(config: Callable[..., TrainConfig], name: str) -> None:
    options = {key: FILES.get(key, value) for key, value in sample_options(name).items() if key != "score_threshold"}
    option = tuple(f"{key}={value}" for key, value in options.items())
    quick = {"schedule": "constant", "flip": False, "epochs": STEPS.get(name, 4), "checkpoint_every": 100}
    job = prepare(config(dataset="pair", model=name, option=option, **quick, learning_rate=3e-4))
    fit(job, LocalWorker())
    found = losses(job)
    assert found[-1] < (2 if find(name).fits_at_once else found[0])
