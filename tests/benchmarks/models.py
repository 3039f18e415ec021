"""Networks that cost nothing, so that everything around them shows."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from models.spec import InputRule, ModelSpec


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


NOTHING = ModelSpec(
    name="tests.benchmarks.models:NOTHING",
    task="detection",
    build=build,
    input_rule=lambda model: InputRule(),
    paper="https://example.org",
    labels=("__background__", "thing"),
)
