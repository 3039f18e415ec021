"""What is left of detections that cover each other: hard suppression, and the soft one that lowers their scores.

Soft-NMS: https://arxiv.org/abs/1704.04503
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from shardlens.models.errors import ModelError
from shardlens.models.options import require

Method = Literal["hard", "linear", "gaussian"]


@dataclass(frozen=True)
class Suppression:
    """How detections of one class suppress each other."""

    method: Method = "hard"
    """hard: what covers a better one is dropped; linear: its score is lowered by (1 - IoU); gaussian: by exp(-IoU^2/s)."""
    iou: float = 0.5
    """hard and linear: overlaps up to this are left alone."""
    sigma: float = 0.5
    """gaussian: the s above; smaller is stricter."""
    floor: float = 0.001
    """Soft: what falls below this score is dropped."""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ModelError(f"suppression is {self.method!r}; expected one of {', '.join(get_args(Method))}")
        require("nms_threshold", self.iou, 0, 1)


def suppression(method: str, iou: float) -> Suppression:
    """The rule of an option's text.

    Raises:
        ModelError: it is none of hard, linear, gaussian.
    """
    return Suppression(method, iou)  # type: ignore[arg-type]


def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, rule: Suppression, limit: int) -> tuple[Tensor, Tensor]:
    """The best `limit` detections that are left, class by class: their indices (K,), best first, and scores (K,).

    Args:
        boxes: (N, 4) xyxy.
        scores: (N,).
        labels: (N,) int64.
    """
    if rule.method == "hard":
        keep = batched_nms(boxes, scores, labels, rule.iou)[:limit]
        return keep, scores[keep]
    return soft_nms(_apart(boxes, labels), scores, rule, limit)


def _apart(boxes: Tensor, labels: Tensor) -> Tensor:
    """Boxes moved so far, class by class, that those of different classes never meet."""
    if len(boxes) == 0:
        return boxes
    apart: Tensor = boxes.double() + (labels.double() * (boxes.max() - boxes.min() + 1))[:, None]
    return apart


def soft_nms(boxes: Tensor, scores: Tensor, rule: Suppression, limit: int) -> tuple[Tensor, Tensor]:
    """Take the best, lower all that cover it, and again: indices (K,), and their scores (K,), which fall.

    One step lowers all the others at once, and there are at most `limit` steps, for no later pick can score higher.

    Args:
        boxes: (N, 4) xyxy.
        scores: (N,) non-negative.
    """
    left = scores.clone()
    picked: list[Tensor] = []
    kept: list[Tensor] = []
    for _ in range(min(limit, len(boxes))):
        best = left.argmax()
        if left[best] < rule.floor:
            break
        picked.append(best)
        kept.append(left[best])
        left = left * _decay(box_iou(boxes[best][None], boxes)[0].to(left), rule)
        left[best] = -1.0
    if not picked:
        return torch.empty(0, dtype=torch.int64, device=boxes.device), scores.new_empty(0)
    return torch.stack(picked), torch.stack(kept)


def _decay(overlaps: Tensor, rule: Suppression) -> Tensor:
    if rule.method == "gaussian":
        return torch.exp(-overlaps.square() / rule.sigma)
    return torch.where(overlaps > rule.iou, 1 - overlaps, 1.0)
