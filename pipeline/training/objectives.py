"""What a step minimises: the losses that a detection model gives, cross entropy and soft Dice for a semantic one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.inputs import normalise, scaled
from models.spec import InputRule

VOID = 255
"""Label of pixels that are not learnt from."""
AUXILIARY_WEIGHT = 0.5
"""Of a second, shallower classifier, as torchvision's segmentation recipes have it."""

Parts = dict[str, Tensor]


def detection(model: nn.Module, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]) -> Parts:
    """Losses by name of a detection or instance model in training; their sum is minimised.

    Args:
        images: (3, H, W) uint8 each, of any sizes.
        targets: for each boxes (N, 4) xyxy float32, labels (N,) int64, masks (N, H, W) uint8 of instance models.
    """
    losses: Parts = model([scaled(image) for image in images], [dict(target) for target in targets])
    return losses


def semantic(
    model: nn.Module, images: Sequence[Tensor], maps: Sequence[Tensor], rule: InputRule, dice_weight: float
) -> Parts:
    """Losses by name of a semantic model: each the mean over the images of the image's own loss.

    So a step costs the same however its images are spread over workers.

    Args:
        images: (3, h, w) uint8 each.
        maps: (h, w) uint8 labels, VOID where a pixel is not learnt from.
    """
    output = model(_stack([normalise(scaled(image), rule) for image in images], rule.multiple, 0.0))
    truth = _stack(maps, rule.multiple, VOID).long()
    parts = {"cross_entropy": cross_entropy(output["out"], truth)}
    if dice_weight:
        parts["dice"] = dice_weight * soft_dice(output["out"], truth)
    if "aux" in output:
        parts["auxiliary"] = AUXILIARY_WEIGHT * cross_entropy(output["aux"], truth)
    return parts


def _stack(arrays: Sequence[Tensor], multiple: int, fill: float) -> Tensor:
    """Pad right and below to the largest height and width, rounded up to `multiple`, and stack."""
    height, width = (-(-max(a.shape[d] for a in arrays) // multiple) * multiple for d in (-2, -1))
    padded = [F.pad(a, (0, width - a.shape[-1], 0, height - a.shape[-2]), value=fill) for a in arrays]
    return torch.stack(padded)


def cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean over the images of their mean over the pixels that are not void; an image of void costs 0.

    Args:
        logits: (N, K, H, W).
        truth: (N, H, W) int64, VOID = not learnt from.
    """
    losses = F.cross_entropy(logits.float(), truth, ignore_index=VOID, reduction="none").flatten(1)
    learnt = (truth != VOID).flatten(1).sum(1).clamp(min=1)
    return (losses.sum(1) / learnt).mean()


def soft_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """1 - 2 sum(y p) / (sum(y^2) + sum(p^2)), the mean over the classes in an image, then over the images.

    V-Net, https://arxiv.org/abs/1606.04797. Void pixels count for nothing; an image of void alone costs 0.

    Args:
        logits: (N, K, H, W).
        truth: (N, H, W) int64, VOID = not learnt from.
    """
    learnt = (truth != VOID)[:, None]
    p = logits.float().softmax(1) * learnt
    y = torch.zeros_like(p, dtype=torch.bool).scatter_(1, truth[:, None].clamp(max=p.shape[1] - 1), learnt)
    overlap, size = (y * p).sum((2, 3)), y.sum((2, 3)) + p.square().sum((2, 3))
    present = y.sum((2, 3)) > 0
    losses = torch.where(present, 1 - 2 * overlap / size.clamp(min=1e-6), torch.zeros_like(overlap))
    return (losses.sum(1) / present.sum(1).clamp(min=1)).mean()
