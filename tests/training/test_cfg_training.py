"""A network that is given as a .cfg is trained from its URI, and its checkpoint carries the text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

import models
from models.weights import read_checkpoint
from pipeline import storage
from pipeline.networks import NetworkConfig, load_network, resolve
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


def test_published_weights_of_other_classes_are_begun_with(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    options = {name: value for name, value in SMALL["yolov3_tiny"].options.items() if name != "score_threshold"}
    source = models.build("yolov3_tiny", 80, options)
    (tmp_path / "coco.weights").write_bytes(bytes(source.save_darknet()))
    report = train(
        config(
            model="yolov3_tiny",
            option=tuple(f"{name}={value}" for name, value in options.items()),
            init=str(tmp_path / "coco.weights"),
            transfer="feature-extractor",
        )
    )
    network = load_network(resolve(NetworkConfig(weights=report.checkpoint)))
    kept, own = source.state_dict(), network.state_dict()
    assert torch.equal(own["layers.0.0.weight"], kept["layers.0.0.weight"])
    assert own["layers.15.0.weight"].shape[0] == 3 * (5 + 3)
