"""Unpooling: pooled values back to where they came from. https://arxiv.org/abs/1505.04366"""

from __future__ import annotations

from torch import Tensor


def unpool_add(pooled: Tensor, switches: Tensor, height: int, width: int) -> Tensor:
    """Zeros (N, C, height, width) with each pooled value added at its switch.

    Overlapping windows may name one place several times: their values add up there, which
    `torch.nn.functional.max_unpool2d` leaves undefined.

    Args:
        pooled: (N, C, h, w).
        switches: (N, C, h, w) int64, row * width + column, as `max_pool2d(..., return_indices=True)` gives them.
    """
    images, channels = pooled.shape[:2]
    planes = pooled.new_zeros(images, channels, height * width)
    return planes.scatter_add(2, switches.flatten(2), pooled.flatten(2)).view(images, channels, height, width)
