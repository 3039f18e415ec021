"""Losses of semantic segmentation, each the mean over the images of the image's own loss, and their weighted sum.

Logits are (N, K, H, W), truth is (N, H, W) int64 with VOID where a pixel is not learned from; all reckon in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from shardlens.models.errors import ModelError

VOID = 255
"""Label of pixels that are not learned from."""

Parts = dict[str, Tensor]


def cross_entropy(
    logits: Tensor, truth: Tensor, class_weights: Tensor | None = None, pixel_weights: Tensor | None = None
) -> Tensor:
    """Mean over an image's pixels, weighted by class and by pixel where weights are given; an image of void costs 0.

    With both, a pixel of class c weighs w_c + w(x), as U-Net has it (https://arxiv.org/abs/1505.04597, eq. 2). The sum
    is divided by the weights' sum, as torch does it with class weights, so that weights do not change the step's size.

    Args:
        class_weights: (K,); None = 1 each.
        pixel_weights: (N, H, W), added to the class's weight.
    """
    logarithms = F.cross_entropy(logits.float(), truth, ignore_index=VOID, reduction="none")
    return _weighted_mean(logarithms, _weights(truth, class_weights, pixel_weights))


def focal(logits: Tensor, truth: Tensor, gamma: float = 2.0, class_weights: Tensor | None = None) -> Tensor:
    """-(1 - p)^gamma log p of the true class's p: what is sure already costs little. https://arxiv.org/abs/1708.02002

    Weights (the paper's alpha), means and void as in `cross_entropy`, which it is at gamma 0.
    """
    logarithms = F.cross_entropy(logits.float(), truth, ignore_index=VOID, reduction="none")
    doubt = (-torch.expm1(-logarithms)).clamp(
        min=torch.finfo(torch.float32).tiny
    )  # 1 - p; 0 has no slope at powers < 1
    return _weighted_mean(doubt**gamma * logarithms, _weights(truth, class_weights, None))


def soft_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """1 - 2 sum(y p) / (sum(y^2) + sum(p^2)), the mean over the classes in an image, then over the images.

    V-Net, https://arxiv.org/abs/1606.04797. A class that is not in the image would cost 1 whatever the network says, and
    is left out. Void pixels count for nothing; an image of void alone costs 0.
    """
    learned = (truth != VOID)[:, None]
    p = logits.float().softmax(1) * learned
    y = torch.zeros_like(p, dtype=torch.bool).scatter_(1, truth[:, None].clamp(max=p.shape[1] - 1), learned)
    overlap, size = (y * p).sum((2, 3)), y.sum((2, 3)) + p.square().sum((2, 3))
    present = y.sum((2, 3)) > 0
    losses = torch.where(present, 1 - 2 * overlap / size.clamp(min=1e-6), torch.zeros_like(overlap))
    return (losses.sum(1) / present.sum(1).clamp(min=1)).mean()


def _weights(truth: Tensor, class_weights: Tensor | None, pixel_weights: Tensor | None) -> Tensor:
    """(N, H, W) float32, 0 at void."""
    learned = truth != VOID
    weights = learned.float() if class_weights is None else class_weights.float()[truth * learned] * learned
    return weights if pixel_weights is None else weights + pixel_weights.float() * learned


def _weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    sums, wholes = (losses * weights).sum((1, 2)), weights.sum((1, 2))
    return torch.where(wholes > 0, sums / wholes.where(wholes > 0, 1), torch.zeros_like(sums)).mean()


@dataclass(frozen=True)
class SegmentationLoss:
    """A sum of losses, each by its weight; 0 leaves one out."""

    cross_entropy: float = 1.0
    dice: float = 1.0
    focal: float = 0.0
    gamma: float = 2.0
    """Of the focal loss."""
    class_weights: Sequence[float] | None = None
    """By label, of cross entropy and focal loss."""

    def __call__(self, logits: Tensor, truth: Tensor, pixel_weights: Tensor | None = None) -> Parts:
        """The losses by name, times their weights.

        Raises:
            ModelError: there are not as many class weights as classes.
        """
        weights = self._class_weights(logits)
        parts: Parts = {}
        if self.cross_entropy:
            parts["cross_entropy"] = self.cross_entropy * cross_entropy(logits, truth, weights, pixel_weights)
        if self.dice:
            parts["dice"] = self.dice * soft_dice(logits, truth)
        if self.focal:
            parts["focal"] = self.focal * focal(logits, truth, self.gamma, weights)
        return parts

    def _class_weights(self, logits: Tensor) -> Tensor | None:
        if self.class_weights is None:
            return None
        if len(self.class_weights) != logits.shape[1]:
            raise ModelError(
                f"{len(self.class_weights)} class weights for {logits.shape[1]} classes: expected one each"
            )
        return torch.tensor(self.class_weights, device=logits.device)
