"""DETR's loss of a set of predictions: the cheapest one-to-one matching, then class, L1 and GIoU of the matched.

https://arxiv.org/abs/2005.12872, section 3.1 and appendix A.2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou

from shardlens.models.losses.boxes import giou_loss

NO_OBJECT_WEIGHT = 0.1
L1_WEIGHT, GIOU_WEIGHT = 5.0, 2.0
_UNCOUNTABLE = 1e6
"""Stands for costs that are no numbers, so that the losses and not the matching tell of a diverged network."""


@dataclass(frozen=True)
class Found:
    """What the queries of a batch say."""

    logits: Tensor
    """(N, Q, K + 1); the last is "no object"."""
    boxes: Tensor
    """(N, Q, 4) cx, cy, w, h as shares of the image's width and height."""


@dataclass(frozen=True)
class Truth:
    """The objects of one image."""

    labels: Tensor
    """(M,) int64."""
    boxes: Tensor
    """(M, 4) cx, cy, w, h as shares of the image's width and height."""


def assign(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns, (min(Q, M),) int64 each, of the one-to-one matching whose costs have the smallest sum.

    Args:
        cost: (Q, M).
    """
    finite = cost.detach().nan_to_num(_UNCOUNTABLE, _UNCOUNTABLE, -_UNCOUNTABLE).cpu()
    rows, columns = linear_sum_assignment(finite.numpy())
    return torch.as_tensor(rows, device=cost.device), torch.as_tensor(columns, device=cost.device)


@torch.no_grad()
def matching_cost(logits: Tensor, boxes: Tensor, truth: Truth) -> Tensor:
    """(Q, M): less the probability of the class, with L1 and GIoU weighted as in the loss.

    Args:
        logits: (Q, K + 1).
        boxes: (Q, 4) as `Found.boxes`.
    """
    probability = logits.softmax(-1)[:, truth.labels]
    overlap: Tensor = generalized_box_iou(_corners(boxes), _corners(truth.boxes))
    return L1_WEIGHT * torch.cdist(boxes, truth.boxes, p=1) - probability - GIOU_WEIGHT * overlap


def set_loss(found: Found, truths: Sequence[Truth]) -> dict[str, Tensor]:
    """The weighted losses class, l1 and giou.

    The class's is the mean over all queries, "no object" counting a tenth; the boxes' are sums over the matched queries
    divided by the batch's objects.
    """
    logits, boxes = found.logits.float(), found.boxes.float()
    matches = [assign(matching_cost(*image)) for image in zip(logits, boxes, truths, strict=True)]
    no_object = logits.shape[2] - 1
    labels = torch.full(logits.shape[:2], no_object, device=logits.device)
    for row, (queries, objects), truth in zip(labels, matches, truths, strict=True):
        row[queries] = truth.labels[objects]
    weights = logits.new_ones(logits.shape[2])
    weights[no_object] = NO_OBJECT_WEIGHT
    predicted = torch.cat([image[queries] for image, (queries, _) in zip(boxes, matches, strict=True)])
    wanted = torch.cat([truth.boxes[objects] for truth, (_, objects) in zip(truths, matches, strict=True)])
    count = max(1, sum(len(truth.labels) for truth in truths))
    return {
        "class": F.cross_entropy(logits.transpose(1, 2), labels, weights),
        "l1": L1_WEIGHT * F.l1_loss(predicted, wanted, reduction="sum") / count,
        "giou": GIOU_WEIGHT * giou_loss(_corners(predicted), _corners(wanted), reduction="sum") / count,
    }


def _corners(boxes: Tensor) -> Tensor:
    """xyxy of cx, cy, w, h."""
    corners: Tensor = box_convert(boxes, "cxcywh", "xyxy")
    return corners
