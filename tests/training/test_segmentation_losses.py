"""The losses of segmentation through `train`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.train import train
from shardlens.pipeline.training.config import TrainConfig
from tests.training.conftest import SEMANTIC


def test_every_loss_is_trained_on_and_reported(config: Callable[..., TrainConfig]) -> None:
    chosen = {"focal_weight": 0.5, "border_weight": 10.0, "border_sigma": 3.0, "class_weight": ("disc=2",)}
    asked = config(**{**SEMANTIC, "option": ("auxiliary=true",)}, epochs=2, learning_rate=0.01, **chosen)
    found = train(asked)
    assert set(found.losses) >= {"loss", "cross_entropy", "dice", "focal", "aux"}
    parts = sum(found.losses[name] for name in ("cross_entropy", "dice", "focal", "aux"))
    assert found.losses["loss"] == pytest.approx(parts)


def test_weights_change_what_is_learned(config: Callable[..., TrainConfig]) -> None:
    plain = train(config(**SEMANTIC, run="plain"))
    digests = {storage.read(f"{plain.checkpoint}/model.safetensors")}
    for run, chosen in (("border", {"border_weight": 10.0}), ("classes", {"class_weight": ("square=5",)})):
        weighed = train(config(**SEMANTIC, run=run, **chosen))
        digests.add(storage.read(f"{weighed.checkpoint}/model.safetensors"))
    assert len(digests) == 3


def test_a_class_weight_of_no_label_is_refused_before_the_first_step(config: Callable[..., TrainConfig]) -> None:
    asked = config(**SEMANTIC, class_weight=("disk=2",))
    with pytest.raises(ConfigError, match=r"--class-weight disk=2.0: there is no such label; expected one of disc"):
        train(asked)
