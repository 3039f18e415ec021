"""Detectors that compute NaN or infinity: an image is quarantined for it, and never taken for empty."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shardlens.models import build
from shardlens.pipeline.inference.finite import all_finite, watched
from tests.models.small import SMALL


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build(name, 3, SMALL[name].options, 0.0).eval()


@pytest.mark.parametrize("name", ["efficientdet", "yolov3_tiny", "fcos_small", "detr"])
@torch.no_grad()
def test_a_broken_first_layer_is_noticed_where_the_detector_says_nothing(name: str) -> None:
    model, image = small(name), torch.rand(3, 64, 64)
    with all_finite(watched(model)):
        model([image])
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm))
    assert norm.weight is not None
    norm.weight.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match="not finite numbers"), all_finite(watched(model)):
        model([image])


def test_the_network_is_left_as_it_was() -> None:
    model = small("fcos_small")
    with pytest.raises(ZeroDivisionError), all_finite(watched(model)):
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in model.modules())


def test_heads_are_watched_where_there_is_a_backbone() -> None:
    assert not any(name.startswith("backbone.") for name, _ in watched(small("fcos_small")))
    assert watched(small("yolov3_tiny"))
