"""Batch normalization folded into the convolution before it, for networks that only predict.

With fixed statistics a normalization is a factor and an offset per channel, which the convolution's own weights and bias can
carry: one pass over the features less. The outputs are the same up to float rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeGuard

import torch
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

IN_ORDER = (nn.Sequential, IntermediateLayerGetter)
"""Modules that call their children one after another, each on what the last one gave."""
BY_NUMBER = (BasicBlock, Bottleneck, ResNet)
"""Modules of torchvision that call bn1 on what conv1 gave, bn2 on what conv2 gave, ..."""


@torch.no_grad()
def fold_batch_norms(model: nn.Module) -> int:
    """Fold where it is sure that nothing else reads what the convolution gives; return how many were folded.

    A folded normalization becomes an `nn.Identity`, its convolution gets a bias. Convolutions that are used in several
    places stay, and so does all that is not a plain `nn.Conv2d` followed by a batch normalization in evaluation mode. A
    network whose layers read the kernels of others says so by an attribute `lends_kernels`, and stays as it is.
    """
    if getattr(model, "lends_kernels", False):
        return 0
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    folded = 0
    for parent in model.modules():
        for convolution, name in list(_pairs(parent)):
            norm = getattr(parent, name)
            if uses[id(convolution)] == uses[id(norm)] == 1 and _is_foldable(convolution, norm):
                _fold(convolution, norm)
                setattr(parent, name, nn.Identity())
                folded += 1
    return folded


def _pairs(parent: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Each module and the name of the one that takes its output, and nothing else does."""
    children = dict(parent.named_children())
    if isinstance(parent, IN_ORDER):
        yield from zip(children.values(), list(children)[1:], strict=False)
    if isinstance(parent, BY_NUMBER):
        numbers = [name.removeprefix("conv") for name in children if name.startswith("conv")]
        yield from ((children[f"conv{n}"], f"bn{n}") for n in numbers if f"bn{n}" in children)


def _is_foldable(convolution: nn.Module, norm: nn.Module) -> TypeGuard[nn.Conv2d]:
    if type(convolution) is not nn.Conv2d or convolution.training or norm.training:
        return False
    kept = isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats
    return kept or isinstance(norm, FrozenBatchNorm2d)


def _fold(convolution: nn.Conv2d, norm: Any) -> None:
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = torch.ones_like(mean) if norm.weight is None else norm.weight.double()
    offset = torch.zeros_like(mean) if norm.bias is None else norm.bias.double()
    bias = torch.zeros_like(mean) if convolution.bias is None else convolution.bias.double()
    factor = scale * (variance + norm.eps).rsqrt()
    weight = convolution.weight
    weight.copy_(weight.double() * factor[:, None, None, None])
    convolution.bias = nn.Parameter(((bias - mean) * factor + offset).to(weight.dtype), requires_grad=False)
