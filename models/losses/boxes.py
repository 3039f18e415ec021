"""Losses of boxes and of anchors that mostly have none; torchvision's where it has them.

Focal loss, https://arxiv.org/abs/1708.02002; GIoU, https://arxiv.org/abs/1902.09630; IoU below.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss as giou_loss
from torchvision.ops import sigmoid_focal_loss as focal_loss

__all__ = ["focal_loss", "giou_loss", "iou_loss"]

_EPS = 1e-7


def iou_loss(predicted: Tensor, wanted: Tensor) -> Tensor:
    """1 - IoU (N,) of boxes (N, 4) xyxy, pair by pair: 1 where they do not meet.

    UnitBox (https://arxiv.org/abs/1608.01471) takes -log IoU, which is infinite there.
    """
    common = torch.minimum(predicted[:, 2:], wanted[:, 2:]) - torch.maximum(predicted[:, :2], wanted[:, :2])
    shared = common.clamp(min=0).prod(1)
    union = (predicted[:, 2:] - predicted[:, :2]).prod(1) + (wanted[:, 2:] - wanted[:, :2]).prod(1) - shared
    return 1 - shared / union.clamp(min=_EPS)
