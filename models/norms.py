"""Batch normalization that a batch of one pooled value does not stop, and whose statistics keep up with the weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

MOMENTUM = 0.1
"""Torch's own: after twenty steps a running statistic is nearly that of the last ones."""


class SteadyBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization whose running statistics stand in where a batch has but one value per channel.

    One value has no variance, and torch refuses to train on it: the last image of an epoch, alone in its batch, in a
    branch that pools the whole image.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Normalized features (N, C, H, W)."""
        if self.training and features[:, 0].numel() == 1:
            return F.batch_norm(features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(features)


def keeping_up(model: nn.Module) -> nn.Module:
    """`model` with running statistics that follow at `MOMENTUM` at least.

    MobileNetV3 follows at 0.01, made for the hundreds of thousands of steps of ImageNet: after a hundred and sixty it
    would still predict by a fifth of the statistics that it began with, and find nothing of what it has learned.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.momentum is not None:
            module.momentum = max(module.momentum, MOMENTUM)
    return model


def steady(model: nn.Module) -> nn.Module:
    """`model` with its batch normalizations steady; the names of its parameters and buffers stay."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.BatchNorm2d
    ]
    for parent, name, child in found:
        setattr(parent, name, _steadied(child))
    return model


def _steadied(norm: nn.BatchNorm2d) -> SteadyBatchNorm2d:
    made = SteadyBatchNorm2d(norm.num_features, norm.eps, norm.momentum)
    made.weight, made.bias = norm.weight, norm.bias
    return made.train(norm.training)
