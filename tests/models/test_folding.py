"""Folding changes no output beyond rounding, and leaves alone what it cannot be sure of."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.resnet import resnet18
from torchvision.ops import FrozenBatchNorm2d

from shardlens import models
from shardlens.models.folding import fold_batch_norms


def lively(model: nn.Module) -> nn.Module:
    """`model` in evaluation mode, with statistics as a trained network has them."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            for values in (module.running_mean, module.bias):
                values.data.copy_(torch.randn(values.shape, generator=generator) / 4)
            for values in (module.running_var, module.weight):
                values.data.copy_(0.5 + torch.rand(values.shape, generator=generator))
    return model.eval().requires_grad_(False)


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, FrozenBatchNorm2d])
def test_a_resnet_keeps_its_outputs_without_any_norm(norm: type[nn.Module]) -> None:
    model = lively(resnet18(norm_layer=norm))
    image = torch.rand(2, 3, 64, 64)
    expected, count = model(image), norms(model)
    assert fold_batch_norms(model) == count == 20
    assert norms(model) == 0
    torch.testing.assert_close(model(image), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"), [("fcos_small", {}), ("unet", {"width": 8, "depth": 3}), ("yolov3_tiny", {"width": 0.25})]
)
def test_networks_of_the_zoo_lose_their_norms_and_nothing_else(name: str, options: dict[str, float]) -> None:
    model = lively(models.build(name, 4, options))
    images = torch.rand(1, 3, 96, 96)
    given = images if models.find(name).task == "semantic" else list(images)
    expected = model(given)
    assert fold_batch_norms(model) > 5
    assert norms(model) == 0
    found = model(given)
    for a, b in zip(*(x if isinstance(x, list) else [x] for x in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


class Branching(nn.Module):
    """What the convolution gives is read twice, which its `forward` alone tells."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(x)
        return y + self.bn1(y)


def test_what_is_not_sure_stays() -> None:
    shared, convolution = nn.BatchNorm2d(4), nn.Conv2d(3, 4, 1)
    unsure = nn.ModuleList([Branching(), nn.Sequential(convolution, shared), nn.Sequential(convolution, shared)])
    assert fold_batch_norms(unsure.eval()) == 0
    learning = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert fold_batch_norms(learning.train()) == 0
    current = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert fold_batch_norms(current.eval()) == 0


def test_a_decoder_that_borrows_the_encoders_kernels_finds_them_as_they_were() -> None:
    model = lively(models.build("deconvnet", 4, {"width": 4, "head_width": 16, "tied": True}))
    images = torch.rand(1, 3, 64, 64)
    expected = model(images)["out"]
    fold_batch_norms(model)
    torch.testing.assert_close(model(images)["out"], expected)
