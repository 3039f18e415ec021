"""CornerNet's losses: heat maps, the embeddings that pair corners, and offsets. https://arxiv.org/abs/1808.01244, eq. 1-5."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ALPHA, BETA = 2.0, 4.0
MARGIN = 1.0
PULL_WEIGHT, PUSH_WEIGHT = 0.1, 0.1


def heat_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """Focal loss that spares negatives near a corner, divided by the corners (eq. 1).

    Args:
        logits: (C, H, W) of one image.
        heat: (C, H, W), 1 at the corners.
    """
    score, corner = logits.sigmoid(), heat == 1
    positive = (1 - score) ** ALPHA * F.logsigmoid(logits)
    negative = (1 - heat) ** BETA * score**ALPHA * F.logsigmoid(-logits)
    return -torch.where(corner, positive, negative).sum() / corner.sum().clamp(min=1)


def pull_loss(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    """Brings the embeddings (M,) of an object's two corners together (eq. 4); 0 without objects."""
    middle = (top_left + bottom_right) / 2
    apart = (top_left - middle).square() + (bottom_right - middle).square()
    return apart.sum() / max(1, len(apart))


def push_loss(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    """Keeps the objects' mean embeddings at least `MARGIN` apart (eq. 5); 0 with fewer than two objects."""
    middle = (top_left + bottom_right) / 2
    others = ~torch.eye(len(middle), dtype=torch.bool, device=middle.device)
    near = F.relu(MARGIN - (middle[:, None] - middle[None, :]).abs())
    return (near * others).sum() / max(1, len(middle) * (len(middle) - 1))


def offset_loss(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Smooth L1 of offsets (M, 2), divided by the objects (eq. 3); 0 without objects."""
    return F.smooth_l1_loss(predicted, wanted, reduction="sum") / max(1, len(wanted))
