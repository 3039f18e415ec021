"""Boxes of one object merged instead of suppressed, as OverFeat has it: https://arxiv.org/abs/1312.6229, section 4.3."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou


def match_costs(boxes: Tensor) -> Tensor:
    """How badly each pair of boxes (N, 4) xyxy matches, (N, N): distance of the centers, and what they do not share.

    The paper sums the centers' distance and the intersection; both are taken without unit here, so that one limit serves
    all sizes: the distance over the mean of both diagonals, and 1 - IoU. The diagonal of the result is infinite.
    """
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    diagonals = (boxes[:, 2:] - boxes[:, :2]).norm(dim=1)
    distance = torch.cdist(centers, centers) / ((diagonals[:, None] + diagonals) / 2).clamp(min=1e-6)
    costs: Tensor = distance + 1 - box_iou(boxes, boxes)
    return costs.fill_diagonal_(torch.inf)


def greedy_merge(boxes: Tensor, confidences: Tensor, limit: float) -> tuple[Tensor, Tensor]:
    """Merge the best matching pair, and again, until none matches better than `limit`.

    A merged box is the mean of both (each counts as one, whatever it came of), and its confidence their sum.

    Args:
        boxes: (N, 4) xyxy of one class.
        confidences: (N,).

    Returns:
        (M, 4) and (M,), M <= N, the most confident first.
    """
    boxes, confidences = boxes.clone(), confidences.clone()
    costs = match_costs(boxes)
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    while len(boxes) and costs.min() < limit:
        a, b = divmod(int(costs.argmin()), len(boxes))
        boxes[a] = (boxes[a] + boxes[b]) / 2
        confidences[a] += confidences[b]
        alive[b] = False
        costs[b] = costs[:, b] = torch.inf
        fresh = torch.where(alive, _costs_of(boxes, a), torch.inf)
        fresh[a] = torch.inf
        costs[a] = costs[:, a] = fresh
    order = confidences[alive].argsort(descending=True, stable=True)
    return boxes[alive][order], confidences[alive][order]


def _costs_of(boxes: Tensor, one: int) -> Tensor:
    """The row of `match_costs` that belongs to box `one`."""
    diagonals = (boxes[:, 2:] - boxes[:, :2]).norm(dim=1)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = (centers - centers[one]).norm(dim=1) / ((diagonals + diagonals[one]) / 2).clamp(min=1e-6)
    row: Tensor = distance + 1 - box_iou(boxes[one][None], boxes)[0]
    return row
