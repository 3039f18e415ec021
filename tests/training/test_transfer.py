from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shardlens import models
from shardlens.pipeline.errors import ConfigError, WeightsError
from shardlens.pipeline.networks.weights import Checkpoint, save
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.loop import LocalWorker, Loop, fit
from shardlens.pipeline.training.prepare import prepare
from shardlens.pipeline.training.transfer import Transfer, backbone_of, freeze, initialize, read_init, thaw

Make = Callable[..., TrainConfig]
UNET = {"model": "unet", "option": ("depth=2", "width=4"), "batch_size": 4, "learning_rate": 1e-2}
FCOS_OPTIONS = {"backbone": "mobilenet_v2", "width": 32, "convolutions": 1, "levels": 3, "min_size": 64, "max_size": 64}
FCOS = {"model": "fcos", "option": tuple(f"{k}={v}" for k, v in FCOS_OPTIONS.items()), "batch_size": 8}


def a_backbone(folder: Path) -> str:
    """A classifier's file: the backbone of another `fcos`, named as torchvision names it."""
    torch.manual_seed(7)
    whole = models.build("fcos", 2, FCOS_OPTIONS).state_dict()
    state = {k.removeprefix("backbone."): v for k, v in whole.items() if k.startswith("backbone.features")}
    torch.save({**state, "classifier.1.weight": torch.zeros(10, 4)}, folder / "backbone.pth")
    return str(folder / "backbone.pth")


def a_unet(folder: Path, classes: int) -> str:
    torch.manual_seed(7)
    options = {"depth": 2, "width": 4}
    labels = tuple(f"c{i}" for i in range(classes))
    data = save(models.build("unet", classes, options), Checkpoint("unet", options, labels))
    (folder / "unet.safetensors").write_bytes(data)
    return str(folder / "unet.safetensors")


def trained_from(config: TrainConfig) -> tuple[dict[str, Tensor], dict[str, Tensor], Loop]:
    """State before and after the run."""
    loop = Loop(prepare(config), LocalWorker())
    try:
        before = {name: tensor.clone() for name, tensor in loop.stepper.network.state_dict().items()}
        loop.resume()
        loop.run()
    finally:
        loop.close()
    return before, loop.stepper.network.state_dict(), loop


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_backbone_fills_a_detector_and_the_rest_is_reported(config: Make, tmp_path: Path) -> None:
    network = models.build("fcos", 4, FCOS_OPTIONS)
    found = initialize(network, Path(a_backbone(tmp_path)).read_bytes(), "backbone.pth")
    assert {name for name in network.state_dict() if name.startswith("backbone.features")} == found.matched
    assert "left out classifier.1.weight: not in the model" in str(found)
    assert "random at first: backbone.fpn." in str(found)


def test_a_whole_model_of_other_classes_gives_all_but_its_head(tmp_path: Path) -> None:
    network = models.build("unet", 4, {"depth": 2, "width": 4})
    found = initialize(network, Path(a_unet(tmp_path, 9)).read_bytes(), "unet.safetensors")
    assert set(found.missing) == {"classifier.weight", "classifier.bias"}
    assert "classifier.weight ((9, 4, 1, 1) in the file, (4, 4, 1, 1) in the model)" in str(found)
    torch.manual_seed(7)
    source = models.build("unet", 9, {"depth": 2, "width": 4}).state_dict()
    assert torch.equal(network.state_dict()["encoder.0.0.weight"], source["encoder.0.0.weight"])


def test_nothing_that_fits_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"none of its \d+ tensors fits the model.*classifier.*is it another network's"
    ):
        initialize(models.build("fcos", 4, FCOS_OPTIONS), Path(a_unet(tmp_path, 3)).read_bytes(), "unet")


@pytest.mark.parametrize("task", [FCOS, UNET], ids=["detector", "segmenter"])
def test_a_feature_extractor_keeps_its_backbone_to_the_bit(config: Make, tmp_path: Path, task: dict[str, Any]) -> None:
    init = a_backbone(tmp_path) if task is FCOS else a_unet(tmp_path, 9)
    settings = {**task, "init": init, "weight_decay": 0.1, "ema": 0.5, "epochs": 2}
    before, after, loop = trained_from(config(transfer="feature-extractor", **settings))
    frozen = loop.stepper.transfer.backbone
    assert any(name.endswith("running_var") for name in frozen)
    moved = changed(before, after)
    assert not moved & frozen
    assert moved >= {name for name in after if name not in frozen and name.endswith(("weight", "bias"))}
    assert loop.stepper.ema is not None
    assert not changed({name: before[name] for name in frozen}, loop.stepper.ema.average)


def test_fine_tuning_changes_the_backbone_and_its_statistics(config: Make, tmp_path: Path) -> None:
    before, after, loop = trained_from(config(**FCOS, init=a_backbone(tmp_path), learning_rate=1e-2))
    moved = changed(before, after)
    assert {
        "backbone.features.0.0.weight",
        "backbone.features.0.1.running_mean",
    } <= moved & loop.stepper.transfer.backbone


def test_the_head_learns_first_and_then_all(config: Make, tmp_path: Path) -> None:
    settings = {**FCOS, "init": a_backbone(tmp_path), "transfer": "head-then-all", "learning_rate": 1e-2}
    one = trained_from(config(**settings, run="one", epochs=1))
    two = trained_from(config(**settings, run="two", epochs=2))
    frozen = one[2].stepper.transfer.backbone
    assert not changed(one[0], one[1]) & frozen
    assert {"backbone.features.0.0.weight", "backbone.features.0.1.running_var"} <= changed(two[0], two[1]) & frozen


def test_the_backbone_learns_at_its_factor(config: Make, tmp_path: Path) -> None:
    loop = trained_from(config(**FCOS, init=a_backbone(tmp_path), backbone_factor=0.25, schedule="constant"))[2]
    names = {id(p): name for name, p in loop.stepper.network.named_parameters()}
    rates = {names[id(p)]: g["lr"] for g in loop.stepper.optimizer.param_groups for p in g["params"]}
    assert rates["backbone.features.0.0.weight"] == pytest.approx(0.25 * rates["backbone.fpn.inner_blocks.0.0.weight"])


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.head = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.backbone(x))
        return found


def test_frozen_norms_and_dropout_evaluate_even_after_train() -> None:
    network = Normed()
    names = backbone_of(network)
    handle = freeze(network, names)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()(torch.rand(2, 3, 4, 4))
    assert changed(before, network.state_dict()) == {
        f"head.{k}" for k in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert not any(module.training for module in network.backbone.modules())
    thaw(network, names, handle)
    network(torch.rand(2, 3, 4, 4))
    assert "backbone.1.running_mean" in changed(before, network.state_dict())


def test_a_backbone_is_what_is_called_so_and_filled() -> None:
    network = Normed()
    assert backbone_of(network, {"backbone.0.weight", "head.weight"}) == {"backbone.0.weight"}
    assert backbone_of(nn.Linear(2, 2), {"weight"}) == {"weight"}


def test_freezing_everything_is_an_error(config: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing would be learned"):
        fit(prepare(config(**UNET, init=a_unet(tmp_path, 4), transfer="feature-extractor")), LocalWorker())


def test_a_network_without_a_backbone_has_no_factor_for_it() -> None:
    config = TrainConfig("d", model="unet", backbone_factor=0.1)
    with pytest.raises(ConfigError, match="unet has no part called backbone that the weights fill"):
        Transfer(models.build("unet", 3, {"depth": 1, "width": 4}), config, None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"transfer": "feature-extractor"}, "init is None: expected the URI of initial weights"),
        ({"transfer": "scratch", "init": "x"}, "init is 'x': expected none, with --transfer scratch"),
        ({"transfer": "frozen"}, "transfer is 'frozen': expected one of scratch, feature-extractor"),
        ({"head_epochs": 0}, "head_epochs is 0"),
    ],
)
def test_settings_are_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig("d", model="unet", **given)


def test_a_backbone_that_cannot_be_downloaded_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    begun = time.monotonic()
    with pytest.raises(WeightsError, match=r"weights\.invalid cannot be reached.*--init PATH.*--transfer scratch"):
        read_init("https://weights.invalid/mobilenet.pth")
    assert time.monotonic() - begun < 10
