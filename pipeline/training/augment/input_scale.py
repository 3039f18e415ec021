"""Detectors that resize their images by themselves, made to choose among several sizes while they learn."""

from __future__ import annotations

import numpy as np
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from shardlens.models.spec import Task
from shardlens.models.tasks import MODEL_TASKS
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.training.augment.config import Augmentation

SIZES = 5
"""How many sizes there are to choose from."""


def vary_input(network: nn.Module, config: Augmentation, task: Task) -> None:
    """Let a detector choose the length of the shorter side for each image; in evaluation it stays what it was.

    torchvision's detectors take several lengths, draw one for each image in training, and use the last one in
    evaluation. Their `max_size` still holds. Semantic images are resized before they reach the network.

    Raises:
        ConfigError: the network has no such choice.
    """
    if not config.multi_scale or not MODEL_TASKS[task].objects:
        return
    transform = getattr(network, "transform", None)
    if not isinstance(transform, GeneralizedRCNNTransform) or transform.fixed_size is not None:
        raise ConfigError(
            f"multi_scale is {config.multi_scale}: expected 0, for the model's input has one size; --scale changes how large "
            "objects are on it"
        )
    usual = transform.min_size[-1]
    factors = np.linspace(1 - config.multi_scale, 1 + config.multi_scale, SIZES)
    transform.min_size = (*(max(1, round(usual * float(factor))) for factor in factors), usual)


def at_largest(network: nn.Module) -> nn.Module:
    """The network, its choice of input sizes cut down to the largest."""
    transform = getattr(network, "transform", None)
    if isinstance(transform, GeneralizedRCNNTransform) and transform.fixed_size is None:
        transform.min_size = (max(transform.min_size),)
    return network
