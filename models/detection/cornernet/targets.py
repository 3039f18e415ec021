"""What CornerNet's maps are to show: a Gaussian around each corner, and where within its cell the corner lies.

https://arxiv.org/abs/1808.01244, section 3.2. Positions are in cells of the maps, `STRIDE` pixels each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CornerTargets:
    """The top left or bottom right corners of one image's M objects."""

    heat: Tensor
    """(C, H, W): 1 at corners of a class, falling off around them."""
    rows: Tensor
    """(M,) int64."""
    columns: Tensor
    """(M,) int64."""
    offsets: Tensor
    """(M, 2): x and y within the cell, each in [0, 1]."""


def gaussian_radius(height: float, width: float, least_iou: float) -> float:
    """How far both corners of a box may each be off, in x and in y, so that its IoU stays at least `least_iou`.

    The smallest of three cases: the box is moved, shrunk or grown.
    """
    area, half_round = height * width, height + width
    kept = least_iou
    moved = _smaller_root(1.0, -half_round, area * (1 - kept) / (1 + kept))
    shrunk = _smaller_root(4.0, -2 * half_round, (1 - kept) * area)
    grown = -_smaller_root(4 * kept, -2 * kept * half_round, (kept - 1) * area)
    return min(moved, shrunk, grown)


def _smaller_root(a: float, b: float, c: float) -> float:
    """Of a x^2 + b x + c with a > 0; the larger one of a x^2 - b x + c is less that."""
    return (-b - math.sqrt(b * b - 4 * a * c)) / (2 * a)


def corner_targets(
    corners: Tensor, radii: Tensor, labels: Tensor, shape: tuple[int, int, int], stride: int
) -> CornerTargets:
    """Targets of one kind of corner.

    Args:
        corners: (M, 2) x, y in pixels.
        radii: (M,) in cells.
        labels: (M,) channel of each.
        shape: classes, height and width of the heat map.
    """
    classes, height, width = shape
    places = corners / stride
    cells = torch.stack([places[:, 0].clamp(0, width - 1), places[:, 1].clamp(0, height - 1)], dim=1).floor()
    heat = _heat(cells, radii, labels, (classes, height, width))
    columns, rows = cells.long().unbind(1)
    return CornerTargets(heat, rows, columns, (places - cells).clamp(0, 1))


def _heat(cells: Tensor, radii: Tensor, labels: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(C, H, W): at each cell the largest of its class's Gaussians, whose deviation is a third of their radius."""
    heat = cells.new_zeros(shape)
    x, y = torch.arange(shape[2], device=cells.device), torch.arange(shape[1], device=cells.device)
    for (column, row), radius, label in zip(cells, radii.floor(), labels, strict=True):
        across, down = (x - column).abs(), (y - row).abs()
        sigma = (2 * radius + 1) / 6
        bell = torch.exp(-(across[None, :].square() + down[:, None].square()) / (2 * sigma.square()))
        near = (across[None, :] <= radius) & (down[:, None] <= radius)
        heat[label] = torch.maximum(heat[label], bell * near)
    return heat
