"""A network tried before the first step, on what the run will ask of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shardlens.models.spec import InputRule, Task
from shardlens.models.tasks import MODEL_TASKS, ModelTask
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.images.batches import blown_up
from shardlens.pipeline.images.shards import ImageRef
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.failures import OF_ONE_VALUE, too_few_for_statistics
from shardlens.pipeline.training.samples import Sample

SMALL, LARGE = 96, 256
"""Networks are tried on images that they see smaller than SMALL pixels; if LARGE ones fail as well, size is not the fault."""


@dataclass(frozen=True)
class Trial:
    """A network's forward pass in training, on images of one size with an object in each."""

    network: nn.Module
    task: Task
    rule: InputRule
    device: torch.device

    @property
    def learns(self) -> ModelTask:
        """What the network is trained on."""
        return MODEL_TASKS[self.task]

    def error(self, height: int, width: int, images: int = 2) -> str | None:
        """What goes wrong with so many images of this size; None = nothing."""
        network = copy.deepcopy(self.network).train()
        try:
            with torch.no_grad(), torch.random.fork_rng([self.device.index or 0] if self.device.type == "cuda" else []):
                self._run(network, height, width, images)
        except (RuntimeError, ValueError) as error:
            return str(error).partition("\n")[0]
        return None

    def _run(self, network: nn.Module, height: int, width: int, images: int) -> None:
        if not self.learns.objects:
            network(torch.zeros(images, 3, *self.rule.shape(height, width), device=self.device))
            return
        image = torch.full((3, height, width), 0.5, device=self.device)
        network([image] * images, [self._target(height, width) for _ in range(images)])

    def sample(self, height: int, width: int) -> Sample:
        """One image of this size, with an object in it, as a step is given it."""
        image = torch.zeros(3, height, width, dtype=torch.uint8)
        return Sample(image, self._target(height, width))

    def _target(self, height: int, width: int) -> Mapping[str, Tensor]:
        target: dict[str, Tensor] = {}
        if self.learns.objects:
            boxes = torch.tensor([[0.0, 0.0, width, height]], device=self.device)
            target |= {"boxes": boxes, "labels": torch.ones(1, dtype=torch.int64, device=self.device)}
        if self.learns.object_masks:
            target["masks"] = torch.ones(1, height, width, dtype=torch.uint8, device=self.device)
        if self.learns.label_map:
            label = int(self.learns.objects)  # a map without objects is all background
            target["map"] = torch.full((height, width), label, dtype=torch.uint8, device=self.device)
        return target


def largest_sample(config: TrainConfig, trial: Trial, images: Sequence[ImageRef]) -> Sample:
    """One image as large as the random changes make any of `images`, all of a known size."""
    if config.crop:
        return trial.sample(*config.crop)
    sizes = [(image.height or 0, image.width or 0) for image in images]
    if not trial.learns.objects:  # images that the input rule resizes before they are changed
        factor = 1 + config.multi_scale
        sizes = [(round(h * factor), round(w * factor)) for h, w in (trial.rule.resized(*size) for size in sizes)]
    return trial.sample(*max(sizes, key=math.prod))


@dataclass(frozen=True)
class Smallest:
    """The smallest input that the network learns from, before its input rule."""

    height: int
    width: int
    description: str
    """Which it is."""


def smallest_input(config: TrainConfig, trial: Trial, images: Sequence[ImageRef]) -> Smallest:
    """Find the smallest of the inputs that the random changes make of `images`, all of a known size."""
    if config.crop:
        high, wide = config.crop
        return Smallest(high, wide, f"a crop of {wide}x{high} pixels")
    found = min(images, key=lambda image: min(trial.rule.shape(image.height or 0, image.width or 0)))
    height, width = found.height or 0, found.width or 0
    description = f"image {found.image_id} ({found.file_name}) of {width}x{height} pixels"
    if not config.multi_scale or trial.learns.objects:
        return Smallest(height, width, description)
    factor = 1 - config.multi_scale
    high, wide = (max(1, round(side * factor)) for side in (height, width))
    return Smallest(high, wide, f"{description}, made smaller by multi_scale,")


def check_largest(rule: InputRule, images: Sequence[ImageRef]) -> None:
    """Refuse images, all of a known size, that the input rule makes larger than memory may be.

    Raises:
        ConfigError: one is so narrow.
    """
    for image in images:
        fault = blown_up(image.height or 0, image.width or 0, rule)
        if fault is not None:
            raise ConfigError(
                f"image {image.image_id} ({image.file_name}): {fault}; leave it out of the dataset, or choose a model or "
                "options (min_size) that do not make it larger"
            )


def check_smallest(trial: Trial, smallest: Smallest, model: str) -> None:
    """Refuse images that are too small for the network, by trying it on the smallest one's size.

    Raises:
        ConfigError: it fails there, and not on a large image.
    """
    seen = trial.rule.shape(smallest.height, smallest.width)
    if min(seen) >= SMALL:
        return
    error = trial.error(smallest.height, smallest.width)
    if error is not None and trial.error(LARGE, LARGE) is None:
        raise ConfigError(
            f"{smallest.description} is too small for {model}, which sees it as {seen[1]}x{seen[0]} ({error}): expected larger "
            "images; leave it out of the dataset, or choose a model or options (min_size, image_size, crop) for small ones"
        )


def check_statistics(trial: Trial, smallest: Smallest, images: int, config: TrainConfig) -> None:
    """Refuse batches too small for norms that take their statistics over them, by trying one.

    Nothing is tried where a batch holds two images or more, or where no such norm is: a forward pass can take seconds.

    Args:
        images: those of the run's smallest batch.

    Raises:
        ConfigError: a norm is given one value per channel.
    """
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in trial.network.modules())
    if images > 1 or not norms or config.method == "feature-extractor":  # whose norms take none
        return
    error = trial.error(min(smallest.height, LARGE), min(smallest.width, LARGE), images)
    if error is not None and OF_ONE_VALUE in error:
        raise too_few_for_statistics(config.model, images)
