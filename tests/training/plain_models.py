"""Networks without batch statistics, and one whose loss can be made to fail, for the tests of training."""

from __future__ import annotations

import os
import time
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from shardlens.models.spec import InputRule, ModelSpec


class PlainSegmenter(nn.Module):
    """Two convolutions of one pixel's size, so that padding changes nothing; if wanted a shallower classifier,
    statistics over the batch of what is pooled over the image, and a nap of some seconds in each pass."""

    def __init__(self, num_classes: int, auxiliary: bool, pooled: bool = False, nap: float = 0.0) -> None:
        super().__init__()
        self.nap = nap
        self.body = nn.Conv2d(3, 8, 1)
        self.head = nn.Conv2d(8, num_classes, 1)
        self.auxiliary = nn.Conv2d(3, num_classes, 1) if auxiliary else None
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8)) if pooled else None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        time.sleep(self.nap)
        features = self.body(images).tanh()
        out = {"out": self.head(features if self.pool is None else features + self.pool(features))}
        return out if self.auxiliary is None else {**out, "aux": self.auxiliary(images)}


def segmenter(*, num_classes: int, auxiliary: bool = False, pooled: bool = False, nap: float = 0.0) -> nn.Module:
    return PlainSegmenter(num_classes, auxiliary, pooled, nap)


class FailingDetector(nn.Module):
    """At the named steps: its loss is not a number, its gradient is none, its process ends; and batches it has no room for
    (in `ram`, as a CPU says it), or none beside what an earlier one still holds."""

    def __init__(
        self, nan_at: int = 0, steep_from: int = 0, die_at: int = 0, room: int = 1000, ram: bool = False
    ) -> None:
        super().__init__()
        self.nan_at, self.steep_from, self.die_at, self.room, self.ram = nan_at, steep_from, die_at, room, ram
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.last = nn.Parameter(torch.ones(1))  # its gradient is there before the memory is full
        self.step = 0
        self.held: list[weakref.ref[Tensor]] = []

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        self.step += 1
        if self.step == self.die_at:
            os._exit(7)
        loss = self.weight.square().sum() * sum(len(target["boxes"]) for target in targets)
        if self.step == self.nan_at:
            loss = loss * float("nan")
        if 0 < self.steep_from <= self.step:
            loss = loss + (0 * self.weight).sum().sqrt()  # 0, and infinitely steep
        if any(one() is not None for one in self.held):
            raise torch.OutOfMemoryError("an earlier batch holds the memory")
        activations = torch.zeros(1)
        self.held = [weakref.ref(activations)]
        full: Tensor = Full.apply(loss, activations, len(images) > self.room, self.ram)
        return {"area": (full * self.last).sum()}


class Full(torch.autograd.Function):
    """Hands a loss on with what it takes to go back, for which there may be no room."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, activations: Tensor, full: bool, ram: bool) -> Tensor:
        ctx.activations, ctx.full, ctx.ram = activations, full, ram
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        if ctx.full and ctx.ram:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
                "allocate 8 bytes. Error code 12 (Cannot allocate memory)"
            )
        if ctx.full:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB. More words")
        return gradient, None, None, None


def failing(
    *, num_classes: int, nan_at: int = 0, steep_from: int = 0, die_at: int = 0, room: int = 1000, ram: bool = False
) -> nn.Module:
    return FailingDetector(nan_at, steep_from, die_at, room, ram)


def rule(model: nn.Module) -> InputRule:
    return InputRule(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


PAPER = "https://example.org"
SEGMENTER = ModelSpec("tests.training.plain_models:SEGMENTER", "semantic", segmenter, rule, PAPER)
PREDICTING = ModelSpec("tests.training.plain_models:PREDICTING", "detection", failing, rule, PAPER, trainable=False)
FAILING = ModelSpec("tests.training.plain_models:FAILING", "detection", failing, rule, PAPER)
