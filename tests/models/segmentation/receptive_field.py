"""Which inputs an output depends on, by gradients."""

from collections.abc import Callable

import torch
from torch import Tensor


def seen_from_the_middle(network: Callable[[Tensor], Tensor], channels: int, side: int) -> Tensor:
    """(side, side) bool: the inputs that the middle output of `network` depends on; `network` keeps the size."""
    image = torch.rand(1, channels, side, side, dtype=torch.float64, requires_grad=True)
    network(image)[..., side // 2, side // 2].sum().backward()
    assert image.grad is not None
    return image.grad.abs().sum(dim=(0, 1)) > 0


def square(side: int, middle: int) -> Tensor:
    """(side, side) bool: a square of `middle` by `middle` in the middle."""
    inside = (torch.arange(side) - side // 2).abs() <= middle // 2
    return inside[:, None] & inside[None, :]
