"""Where a feature lies, as sines of many wavelengths: the transformer's sequence knows no order by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_LONGEST = 10_000.0
_EPS = 1e-6


def sine_positions(padded: Tensor, width: int) -> Tensor:
    """(N, width, H, W): half of the channels for y, half for x, sine and cosine by turns.

    Attention Is All You Need, https://arxiv.org/abs/1706.03762, section 3.5, for two axes. Positions count from 1 within
    the image and run to 2 pi at its last row and column, whatever its size.

    Args:
        padded: (N, H, W) bool, true outside of an image.
        width: a multiple of 4.
    """
    inside = (~padded).float()
    waves = [_waves(inside.cumsum(axis), axis, width // 2) for axis in (1, 2)]
    return torch.cat(waves, dim=3).permute(0, 3, 1, 2)


def _waves(position: Tensor, axis: int, width: int) -> Tensor:
    """(N, H, W, width) of positions (N, H, W) that rise along `axis`."""
    last = position.narrow(axis, position.shape[axis] - 1, 1)
    angle = position / (last + _EPS) * (2 * math.pi)
    exponent = torch.arange(width // 2, device=position.device).repeat_interleave(2) * 2 / width
    phase = angle[..., None] / _LONGEST**exponent
    return torch.stack([phase[..., 0::2].sin(), phase[..., 1::2].cos()], dim=4).flatten(3)


def padding(sizes: Sequence[tuple[int, int]], batch: Tensor, features: Tensor) -> Tensor:
    """(N, h, w) bool, true at features outside of their image.

    Args:
        sizes: (height, width) in pixels of the images within `batch`.
        batch: (N, 3, H, W).
        features: (N, C, h, w) of that batch.
    """
    padded = torch.ones(len(batch), 1, *batch.shape[-2:], device=batch.device)
    for i, (height, width) in enumerate(sizes):
        padded[i, :, :height, :width] = 0
    return F.interpolate(padded, size=features.shape[-2:])[:, 0].bool()
