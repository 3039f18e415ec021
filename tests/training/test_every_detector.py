"""Every trainable detector takes a few steps through the real training path, and its loss falls; test_overfit.py goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shardlens.models import MODELS
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.loop import LocalWorker, fit
from shardlens.pipeline.training.prepare import prepare
from tests.models.samples import sample_options
from tests.training.overfits import TREES
from tests.training.test_loop import losses, weights

SAME = {"fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn", "maskrcnn_resnet50_fpn_v2"}
"""Slow, and of the code of a network that is trained; tests/models/test_zoo.py asks them."""
NAMES = [
    name
    for name, spec in MODELS.items()
    if spec.task in {"detection", "instance"} and not spec.fits_at_once and name not in SAME | {"darknet"}
]
UNLIKE: dict[str, dict[str, Any]] = {
    "efficientdet": {"epochs": 12},  # its backbone drops blocks at random, more than a few steps make good
    "ssd300_vgg16": {"dataset": "single", "epochs": 2, "learning_rate": 1e-5},  # of 300 pixels, without norms
    "fasterrcnn_resnet50_fpn": {"learning_rate": 3e-5},
    "yolov2": {"epochs": 60, "learning_rate": 1e-3},  # objectness aims at the overlap, which grows first
    "retinanet_resnet50_fpn": {"learning_rate": 1e-4},
}
FILES = {name: TREES / f"shapes.{name}" for name in ("tree", "map")}


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_at_once(config: Callable[..., TrainConfig], name: str) -> None:
    options = {key: FILES.get(key, value) for key, value in sample_options(name).items() if key != "score_threshold"}
    option = tuple(f"{key}={value}" for key, value in options.items())
    quick = {"dataset": "pair", "epochs": 4, "learning_rate": 3e-4, **UNLIKE.get(name, {})}
    job = prepare(config(model=name, option=option, schedule="constant", flip=False, checkpoint_every=100, **quick))
    fit(job, LocalWorker())
    found = losses(job)
    assert found[-1] < found[0]


def test_rcnn_fits_a_machine_for_each_class(config: Callable[..., TrainConfig]) -> None:
    options = {**sample_options("rcnn"), "svm_cost": 0.1}
    job = prepare(config(model="rcnn", option=tuple(f"{key}={value}" for key, value in options.items()), flip=False))
    fit(job, LocalWorker())
    state = weights(job)
    assert len(state["svm_weights"]) == 3
    assert (state["svm_weights"].norm(dim=1) > 0.01).all()
    assert (state["box_weights"].flatten(1).norm(dim=1) > 0).all()
    (hinge,) = losses(job)
    assert 0 < hinge < 0.5  # machines of weight 0 leave 1
