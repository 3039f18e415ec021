"""A network tried before the first step, on what the run will ask of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.spec import InputRule, Task
from pipeline.errors import ConfigError
from pipeline.shards import ImageRef

SMALL, LARGE = 96, 256
"""Networks are tried on images that they see smaller than SMALL pixels; if LARGE ones fail as well, size is not the fault."""


@dataclass(frozen=True)
class Trial:
    """A network's forward pass in training, on two images of one size with an object in each."""

    network: nn.Module
    task: Task
    rule: InputRule
    device: torch.device

    def error(self, height: int, width: int) -> str | None:
        """What goes wrong at this size of image; None = nothing."""
        network = copy.deepcopy(self.network).train()
        try:
            with torch.no_grad(), torch.random.fork_rng([self.device.index or 0] if self.device.type == "cuda" else []):
                self._run(network, height, width)
        except (RuntimeError, ValueError) as error:
            return str(error).partition("\n")[0]
        return None

    def _run(self, network: nn.Module, height: int, width: int) -> None:
        if self.task == "semantic":
            network(torch.zeros(2, 3, *self.rule.shape(height, width), device=self.device))
            return
        image = torch.full((3, height, width), 0.5, device=self.device)
        network([image, image], [self._target(height, width), self._target(height, width)])

    def _target(self, height: int, width: int) -> Mapping[str, Tensor]:
        boxes = torch.tensor([[0.0, 0.0, width, height]], device=self.device)
        target = {"boxes": boxes, "labels": torch.ones(1, dtype=torch.int64, device=self.device)}
        mask = torch.ones(1, height, width, dtype=torch.uint8, device=self.device)
        pixels = torch.ones(height, width, dtype=torch.uint8, device=self.device)
        more = {"detection": {}, "instance": {"masks": mask}, "panoptic": {"masks": mask, "map": pixels}}
        return {**target, **more[self.task]}


def check_smallest(trial: Trial, images: Sequence[ImageRef], model: str) -> None:
    """Refuse images that are too small for the network, by trying it on the smallest one's size.

    Args:
        images: those with a known size.

    Raises:
        ConfigError: it fails there, and not on a large image.
    """
    smallest = min(images, key=lambda image: min(trial.rule.shape(image.height or 0, image.width or 0)))
    height, width = smallest.height or 0, smallest.width or 0
    seen = trial.rule.shape(height, width)
    if min(seen) >= SMALL:
        return
    error = trial.error(height, width)
    if error is not None and trial.error(LARGE, LARGE) is None:
        raise ConfigError(
            f"image {smallest.image_id} ({smallest.file_name}) of {width}x{height} pixels is too small for {model}, which sees "
            f"it as {seen[1]}x{seen[0]} ({error}): expected larger images; leave it out of the dataset, or choose a model or "
            "options (min_size, image_size) for small ones"
        )
