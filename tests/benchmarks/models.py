"""Networks that cost nothing, so that everything around them shows."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor, nn

from shardlens.models.spec import InputRule, ModelSpec
from tests.benchmarks.masks import instances


class Nothing(nn.Module):
    """Gives one box an image, after a rest that a device at work would take."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """One box (1, 4) xyxy, its label and score for each image."""
        if self.seconds:
            time.sleep(self.seconds * len(images))
        box, label, score = torch.tensor([[1.0, 2.0, 30.0, 40.0]]), torch.tensor([1]), torch.tensor([0.5])
        return [{"boxes": box, "labels": label, "scores": score} for _ in images]


def build(*, num_classes: int, seconds: float = 0.0) -> nn.Module:
    """`seconds` is the rest for each image."""
    return Nothing(seconds)


class Resting(Nothing):
    """As a GPU at work leaves the CPU alone; it gives an image `masks` instance masks of 30 to 200 pixels a side."""

    def __init__(self, seconds: float, masks: int) -> None:
        super().__init__(seconds)
        drawn, boxes = instances(30, 200, max(masks, 1), (480, 640))
        labels, scores = torch.ones(len(boxes), dtype=torch.int64), torch.linspace(1, 0.5, len(boxes))
        self.found = {"boxes": torch.from_numpy(boxes), "labels": labels, "scores": scores}
        if masks:
            self.found["box_masks"] = torch.from_numpy(drawn)[:, None]

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        """The same boxes and masks for every image."""
        time.sleep(self.seconds * len(images))
        return [dict(self.found) for _ in images]


def build_resting(*, num_classes: int, seconds: float = 0.01, masks: int = 0) -> nn.Module:
    """`seconds` is the rest for each image."""
    return Resting(seconds, masks)


NOTHING = ModelSpec(
    name="tests.benchmarks.models:NOTHING",
    task="detection",
    build=build,
    input_rule=lambda model: InputRule(),
    paper="https://example.org",
    labels=("__background__", "thing"),
)
RESTING = replace(NOTHING, name="tests.benchmarks.models:RESTING", task="instance", build=build_resting)
