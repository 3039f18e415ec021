"""A small detector that misbehaves on images of one's choice; images tell their number by their first red value."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from shardlens.models.spec import InputRule, ModelSpec


class Odd(nn.Module):
    """Finds two boxes in every image, from its pixels alone; notes in `log` which images it saw."""

    def __init__(self, exit_on: int, raise_on: int, nan_on: int, sleep: float, log: str) -> None:
        super().__init__()
        self.exit_on, self.raise_on, self.nan_on, self.sleep, self.log = exit_on, raise_on, nan_on, sleep, log
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        numbers = [round(float(image[0, 0, 0]) * 255) for image in images]
        for number in numbers:
            self.note(number)
            if number == self.exit_on:
                os._exit(17)
            if number == self.raise_on:
                raise RuntimeError(f"image number {number} is not to my taste")
        time.sleep(self.sleep * len(images))
        return [self.boxes(image, number) for image, number in zip(images, numbers, strict=True)]

    def boxes(self, image: Tensor, number: int) -> dict[str, Tensor]:
        height, width = image.shape[1:]
        found = self.conv(image[None]).float().mean(dim=(0, 2, 3)).sigmoid()
        scores = torch.full((2,), torch.nan) if number == self.nan_on else found
        boxes = torch.tensor([[1, 2, width / 2, height / 2], [0, 0, width, height]], dtype=torch.float32)
        return {"boxes": boxes, "labels": torch.tensor([1, 2]), "scores": scores}

    def note(self, number: int) -> None:
        if self.log:
            with (Path(self.log) / f"{os.getpid()}.txt").open("a") as file:
                file.write(f"{number}\n")


def build(
    num_classes: int, exit_on: int = -1, raise_on: int = -1, nan_on: int = -1, sleep: float = 0.0, log: str = ""
) -> nn.Module:
    return Odd(exit_on, raise_on, nan_on, sleep, log)


SPEC = ModelSpec(
    name="tests.odd_models:SPEC",
    task="detection",
    build=build,
    input_rule=lambda model: InputRule(),
    paper="https://example.org",
    labels=("__background__", "disc", "square"),
)
