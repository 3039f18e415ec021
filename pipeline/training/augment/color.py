"""Random changes of color: hue, saturation, brightness and contrast in one matrix, for one look at each pixel."""

from __future__ import annotations

import math

import torch
from numpy.random import Generator
from torch import Tensor

from shardlens.pipeline.training.augment.config import Augmentation

LUMA = (0.299, 0.587, 0.114)
"""What red, green and blue add to the brightness, ITU-R BT.601; torchvision's gray too."""


def jittered(image: Tensor, config: Augmentation, rng: Generator) -> Tensor:
    """`image` (3, H, W) uint8 with random hue, saturation, brightness and contrast, uint8 again.

    The hue is turned about the gray axis, which keeps the brightness where HSV's hue does not, and costs a tenth.
    """
    turn = float(rng.uniform(-config.hue, config.hue))
    amounts = (config.saturation, config.brightness, config.contrast)
    saturation, brightness, contrast = (float(rng.uniform(1 - a, 1 + a)) for a in amounts)
    if not (config.hue or any(amounts)):
        return image
    mixed = color_matrix(turn, saturation) * brightness
    pixels = image.flatten(1).float()
    gray = float(torch.tensor(LUMA) @ pixels.mean(1)) * brightness
    changed = torch.addmm(torch.full((3, 1), gray * (1 - contrast)), mixed * contrast, pixels)
    return changed.round_().clamp_(0, 255).to(torch.uint8).view_as(image)


def color_matrix(turn: float, saturation: float) -> Tensor:
    """(3, 3): turns colors by a share of the circle about gray and multiplies their distance from it.

    Gray stays gray, and brightness what it is.
    """
    luma = torch.tensor(LUMA)
    gray = luma.expand(3, 3)  # every channel the brightness
    color = torch.eye(3) - gray  # what is left is the color
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    angle = 2 * math.pi * turn
    axis = torch.full((3, 3), 1 / 3)
    turned = axis + math.cos(angle) * (torch.eye(3) - axis) + math.sin(angle) * cross
    return gray + saturation * color @ turned @ color
