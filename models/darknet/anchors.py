"""Anchors from a dataset's boxes: k-means with the distance 1 - IoU, so that large boxes do not count for more.

https://arxiv.org/abs/1612.08242, section 2, "Dimension Clusters".
"""

from __future__ import annotations

import torch
from torch import Tensor

from shardlens.models.errors import ModelError

_STEPS = 300  # more than any clustering seen needs; each ends when nothing moves
_STARTS = 5


def shape_iou(sizes: Tensor, others: Tensor) -> Tensor:
    """IoU (T, A) of boxes of `sizes` (T, 2) and `others` (A, 2), laid upon one another by their centers."""
    shared = torch.minimum(sizes[:, None], others).prod(dim=2)
    return shared / (sizes.prod(dim=1)[:, None] + others.prod(dim=1) - shared)


def mean_best_iou(sizes: Tensor, anchors: Tensor) -> float:
    """How well anchors (A, 2) fit boxes of `sizes` (N, 2): the mean IoU of each with the likest, laid upon one another."""
    return float(shape_iou(sizes, anchors).amax(dim=1).mean())


def cluster(sizes: Tensor, count: int, seed: int = 0) -> Tensor:
    """The `count` anchors (count, 2) float64, by area, that fit boxes of `sizes` (N, 2) best: width, height in any unit.

    The best of a few starts from boxes far apart; equal seeds give equal anchors.

    Raises:
        ModelError: fewer boxes of different shapes than anchors; boxes without area are left out.
    """
    solid = sizes.double()[(sizes > 0).all(dim=1)]
    different = len(torch.unique(solid, dim=0))
    if not 1 <= count <= different:
        raise ModelError(
            f"{count} anchors asked for of {different} boxes of different shapes; expected 1 to {different}"
        )
    generator = torch.Generator().manual_seed(seed)
    found = [_settle(solid, _spread(solid, count, generator)) for _ in range(_STARTS)]
    best = max(found, key=lambda anchors: mean_best_iou(solid, anchors))
    return best[best.prod(dim=1).argsort(stable=True)]


def _spread(sizes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The first centers: boxes drawn with the square of their distance to those drawn before (k-means++)."""
    centers = sizes[torch.randint(len(sizes), (1,), generator=generator)]
    while len(centers) < count:
        distance = (1 - shape_iou(sizes, centers).amax(dim=1)).clamp(min=0)
        following = torch.multinomial(distance**2, 1, generator=generator)
        centers = torch.cat([centers, sizes[following]])
    return centers


def _settle(sizes: Tensor, centers: Tensor) -> Tensor:
    """Lloyd's steps until no box changes its cluster; a cluster that loses all its boxes stays where it is."""
    before = torch.full((len(sizes),), -1)
    for _ in range(_STEPS):
        nearest = shape_iou(sizes, centers).argmax(dim=1)
        if torch.equal(nearest, before):
            break
        before = nearest
        owner = nearest[:, None].expand_as(sizes)
        centers = centers.scatter_reduce(0, owner, sizes, "mean", include_self=False)
    return centers
