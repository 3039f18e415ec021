"""Losses of a box's overlap with its object, with the gradients that Darknet gives them.

Darknet does not differentiate IoU, GIoU, DIoU and CIoU with respect to what the network gives: it takes the derivative with
respect to the box as a share of the image, and lays it on the network's values as it is (center), or times the exponential
(sides). These gradients are 10 to 100 times those of the loss, which is why its .cfg files weigh them with 0.07.

https://arxiv.org/abs/1902.09630 (GIoU), https://arxiv.org/abs/1911.08287 (DIoU, CIoU); the formula is AlexeyAB's.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from shardlens.models.losses.boxes import iou_loss

Overlap = Literal["iou", "giou", "diou", "ciou"]
_LOSSES = {"giou": generalized_box_iou_loss, "diou": distance_box_iou_loss, "ciou": complete_box_iou_loss}
_EPS = 1e-12


def overlap_loss(kind: Overlap, boxes: Tensor, wanted: Tensor, size: Tensor) -> Tensor:
    """The loss (P,) of boxes (P, 4) xyxy, shares of an image of `size` (width, height, width, height), pair by pair."""
    if kind == "iou":
        return iou_loss(boxes * size, wanted * size)
    loss: Tensor = _LOSSES[kind](boxes * size, wanted * size)
    return loss


@torch.no_grad()
def darknet_gradient(kind: Overlap, boxes: Tensor, wanted: Tensor) -> Tensor:
    """Darknet's gradient (P, 4) of the loss by center x, y and width, height of `boxes`; both (P, 4) xyxy, shares.

    That of the sides is twice the derivative where it comes from the intersection and the union, and once where it comes
    from the distance of DIoU or the shape of CIoU, as Darknet has it.
    """
    low, high, wanted_low, wanted_high = boxes[:, :2], boxes[:, 2:], wanted[:, :2], wanted[:, 2:]
    common = torch.minimum(high, wanted_high) - torch.maximum(low, wanted_low)
    hull = torch.maximum(high, wanted_high) - torch.minimum(low, wanted_low)
    apart = (common <= 0).any(dim=1, keepdim=True)
    shared, sides = common.prod(dim=1, keepdim=True), high - low
    union = sides.prod(dim=1, keepdim=True) + (wanted_high - wanted_low).prod(dim=1, keepdim=True) - shared
    # derivatives by the low corner (x, y), then by the high one
    of_shared = torch.cat([-common.flip(1) * (low > wanted_low), common.flip(1) * (high < wanted_high)], dim=1)
    of_union = torch.cat([-sides.flip(1), sides.flip(1)], dim=1) - of_shared
    rise = (union * of_shared - shared * of_union) / (union**2).clamp(min=_EPS)
    if kind == "giou":
        area = hull.prod(dim=1, keepdim=True)
        of_area = torch.cat([-hull.flip(1) * (low < wanted_low), hull.flip(1) * (high > wanted_high)], dim=1)
        filled = (area * of_union - union * of_area) / (area**2).clamp(min=_EPS)
        rise = torch.where(apart, filled, rise + filled)
    rise = torch.cat([rise[:, :2] + rise[:, 2:], rise[:, 2:] - rise[:, :2]], dim=1)
    if kind in {"diou", "ciou"}:
        nearer = _distance(boxes, wanted, hull)
        if kind == "ciou":
            nearer[:, 2:] += _shape(sides, wanted_high - wanted_low, shared / union.clamp(min=_EPS))
        rise = torch.where(apart, nearer, rise + nearer)
    return -torch.nan_to_num(rise, nan=0.0, posinf=0.0, neginf=0.0)


def _distance(boxes: Tensor, wanted: Tensor, hull: Tensor) -> Tensor:
    """How the share of the hull's diagonal that the centers are apart falls, by x, y, width, height (P, 4)."""
    past_low, past_high = boxes[:, :2] < wanted[:, :2], boxes[:, 2:] > wanted[:, 2:]
    gap = (wanted[:, :2] + wanted[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    distance, diagonal = (gap**2).sum(1, keepdim=True), (hull**2).sum(1, keepdim=True)
    by_center = 2 * gap * diagonal - 2 * hull * (past_high.to(hull) - past_low.to(hull)) * distance
    by_sides = hull * (past_high.to(hull) + past_low.to(hull)) * distance
    return torch.cat([by_center, by_sides], dim=1) / (diagonal**2).clamp(min=_EPS)


def _shape(sides: Tensor, wanted: Tensor, overlap: Tensor) -> Tensor:
    """How CIoU's term of the shape falls, by width, height (P, 2), less the division by their squares."""
    angle = torch.atan2(wanted[:, :1], wanted[:, 1:]) - torch.atan2(sides[:, :1], sides[:, 1:])
    differs = 4 / math.pi**2 * angle**2
    alpha = differs / (1 - overlap + differs + 1e-6)
    return alpha * 8 / math.pi**2 * angle * torch.cat([sides[:, 1:], -sides[:, :1]], dim=1)
