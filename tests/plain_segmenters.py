"""Segmenters without batch statistics for the tests of prediction: one sees single pixels, one their neighbors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shardlens.models.spec import InputRule, ModelSpec

LABELS = ("__background__", "disc", "square")


class Segmenter(nn.Module):
    """A convolution of `kernel` pixels a side, then classes; random by `seed`."""

    def __init__(self, num_classes: int, kernel: int, seed: int, nan: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.body = nn.Conv2d(3, 8, kernel, padding=kernel // 2)
        self.head = nn.Conv2d(8, num_classes, 1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 3 / kernel
        if nan:
            self.head.bias.data += torch.nan

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.head(self.body(images).tanh())}


def build(*, num_classes: int, kernel: int = 1, seed: int = 0, nan: bool = False) -> nn.Module:
    return Segmenter(num_classes, kernel, seed, nan)


def rule(model: nn.Module) -> InputRule:
    return InputRule(multiple=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def fixed(model: nn.Module) -> InputRule:
    return InputRule(fixed=(32, 32))


PAPER = "https://example.org"
SPEC = ModelSpec("tests.plain_segmenters:SPEC", "semantic", build, rule, PAPER, labels=LABELS)
FIXED = ModelSpec("tests.plain_segmenters:FIXED", "semantic", build, fixed, PAPER, labels=LABELS)
