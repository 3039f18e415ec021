"""Which true box a box covers best."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou


def best_overlaps(boxes: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """For each box its greatest IoU with a true box, and which that is; IoU 0 and index 0 where nothing is true.

    Args:
        boxes: (N, 4) xyxy.
        truth: (M, 4) xyxy; M may be 0.

    Returns:
        (N,) float and (N,) int64.
    """
    if len(truth) == 0:
        return boxes.new_zeros(len(boxes)), torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    overlaps, index = box_iou(boxes, truth).max(1)
    return overlaps, index


def matched(truth: Tensor, index: Tensor) -> Tensor:
    """The true box (N, 4) of each index (N,); zeros where nothing is true."""
    return truth[index] if len(truth) else truth.new_zeros(len(index), 4)
