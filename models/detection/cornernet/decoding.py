"""Boxes from CornerNet's maps: the best corners, paired by class and embedding. https://arxiv.org/abs/1808.01244, 4.2"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

CORNERS = 100
FARTHEST = 0.5
"""Distance of embeddings from which two corners are not of one object."""


@dataclass(frozen=True)
class CornerMaps:
    """What the network says of one kind of corner, of a batch."""

    heat: Tensor
    """(N, C, H, W) logits."""
    embedding: Tensor
    """(N, 1, H, W)."""
    offsets: Tensor
    """(N, 2, H, W): x and y within the cell."""


@dataclass(frozen=True)
class Corners:
    """The best corners of one kind in one image, best first."""

    scores: Tensor
    """(K,)."""
    classes: Tensor
    """(K,) int64 channels."""
    embeddings: Tensor
    """(K,)."""
    places: Tensor
    """(K, 2) x, y in cells."""


def best_corners(maps: CornerMaps, image: int) -> Corners:
    """The highest peaks of one image's heat: cells that no neighbor of their class exceeds."""
    heat = maps.heat[image].float().sigmoid()
    peaks = torch.where(F.max_pool2d(heat, 3, stride=1, padding=1) == heat, heat, 0.0)
    _, height, width = heat.shape
    scores, index = peaks.flatten().topk(min(CORNERS, peaks.numel()))
    cell = index % (height * width)
    offsets = maps.offsets[image].float().flatten(1)[:, cell]
    places = torch.stack([cell % width + offsets[0], cell // width + offsets[1]], dim=1)
    return Corners(scores, index // (height * width), maps.embedding[image].float().flatten()[cell], places)


def pair(top_left: Corners, bottom_right: Corners) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (P, 4) xyxy in cells, scores (P,) and classes (P,) of all pairs that can be one object's corners."""
    distance = (top_left.embeddings[:, None] - bottom_right.embeddings[None, :]).abs()
    same = top_left.classes[:, None] == bottom_right.classes[None, :]
    ordered = (bottom_right.places[None, :, :] > top_left.places[:, None, :]).all(2)
    i, j = torch.where(same & ordered & (distance <= FARTHEST))
    boxes = torch.cat([top_left.places[i], bottom_right.places[j]], dim=1)
    return boxes, (top_left.scores[i] + bottom_right.scores[j]) / 2, top_left.classes[i]
