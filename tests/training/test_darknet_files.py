"""Darknet's own files on the way in and out of training: .cfg, .weights, .names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shardlens import models
from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError, WeightsError
from shardlens.pipeline.export_darknet import export_darknet
from shardlens.pipeline.networks.resolve import NetworkConfig, load_network, resolve
from shardlens.pipeline.networks.weights import read_checkpoint
from shardlens.pipeline.train import TrainConfig, train
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.models.small import SMALL
from tests.training.overfits import TREES


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


def test_a_trained_network_leaves_as_darknets_own_files(
    config: Callable[..., TrainConfig], tmp_path: Path, warehouse: str
) -> None:
    train(config(model="yolov4_tiny", option=("width=0.125", "input_size=64")))
    files = export_darknet(Warehouse(warehouse), "r", str(tmp_path / "out/tiny.weights"))
    own = load_network(resolve(NetworkConfig(weights=f"{warehouse}/checkpoints/r")))
    read = NetworkConfig(model="darknet", option=(f"cfg={files.cfg}",), weights=files.weights, labels=files.names)
    resolved = resolve(read)
    again = load_network(resolved)
    assert resolved.labels == ("disc", "square", "triangle")
    assert again.save_darknet() == own.save_darknet() == (tmp_path / "out/tiny.weights").read_bytes()
    batch = torch.rand(1, 3, 64, 64)
    for mine, theirs in zip(own.raw(batch), again.raw(batch), strict=True):
        assert torch.equal(mine, theirs)


def test_a_trained_tree_leaves_with_its_tree_and_map(
    config: Callable[..., TrainConfig], tmp_path: Path, warehouse: str
) -> None:
    """Three categories at the leaves of a tree: round (disc) and angular (square, triangle)."""
    texts = tuple(f"{kind}={TREES / f'shapes.{kind}'}" for kind in ("tree", "map"))
    report = train(config(model="yolo9000", option=("width=0.125", "input_size=64", *texts)))
    assert report.losses["classes"] > 0
    files = export_darknet(Warehouse(warehouse), "r", str(tmp_path / "out/words.weights"))
    assert "tree=words.tree\nmap=words.map\n" in (tmp_path / "out/words.cfg").read_text()
    options = tuple(f"{kind}={tmp_path / f'out/words.{kind}'}" for kind in ("cfg", "tree", "map"))
    read = NetworkConfig(model="darknet", option=options, weights=files.weights, labels=files.names)
    own = load_network(resolve(NetworkConfig(weights=report.checkpoint)))
    again = load_network(resolve(read))
    assert (again.tree.tree, again.tree.labels) == (own.tree.tree, (2, 3, 4))
    assert again.save_darknet() == own.save_darknet()


def test_what_cannot_be_darknets(config: Callable[..., TrainConfig], warehouse: str) -> None:
    with pytest.raises(ConfigError, match=r"expected the URI of a .weights file; .cfg and .names go next to it"):
        export_darknet(Warehouse(warehouse), "r", "out.bin")
    with pytest.raises(WeightsError, match="no weights at"):
        export_darknet(Warehouse(warehouse), "r", "out.weights")
    train(config())
    with pytest.raises(ConfigError, match="run r trained a fcos_small, which Darknet has no layers for"):
        export_darknet(Warehouse(warehouse), "r", "out.weights")
