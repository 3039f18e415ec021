"""A network that is given as a .cfg is trained from its URI, and its checkpoint carries the text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import models
from models.weights import read_checkpoint
from pipeline import storage
from pipeline.networks import NetworkConfig, resolve
from pipeline.train import TrainConfig, train
from tests.models.small import SMALL


def test_a_cfg_is_trained_and_its_checkpoint_needs_no_file(
    config: Callable[..., TrainConfig], tmp_path: Path, warehouse: str
) -> None:
    cfg = models.build("yolov3_tiny", 3, SMALL["yolov3_tiny"].options).cfg
    (tmp_path / "tiny.cfg").write_text(str(cfg))
    report = train(config(model="darknet", option=(f"cfg={tmp_path / 'tiny.cfg'}",)))
    assert {"box", "objectness", "classes"} <= report.losses.keys()
    (tmp_path / "tiny.cfg").unlink()
    network = resolve(NetworkConfig(weights=report.checkpoint))
    assert (network.model, dict(network.options)["cfg"]) == ("darknet", cfg)
    checkpoint = read_checkpoint(storage.read(f"{warehouse}/checkpoints/r/model.safetensors"))
    assert checkpoint is not None
    assert checkpoint.options == {"cfg": cfg}
