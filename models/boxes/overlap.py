"""The overlap of boxes taken one by one; torchvision's `box_iou` takes all pairs."""

from __future__ import annotations

import torch
from torch import Tensor


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU (...) of boxes (..., 4) xyxy with as many others, whose shapes broadcast; 0 where both are without area."""
    low, high = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(each[..., 2:] - each[..., :2]).prod(dim=-1) for each in (boxes, others)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-12)
