"""What lies outside of an image: zeros or mirrored pixels, so that a network takes images of any size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """`images` (N, C, H, W) with zeros right and below, up to the next multiples of `multiple`."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple))


def mirror(images: Tensor, before: int, height: int, width: int) -> Tensor:
    """`images` (N, C, h, w) mirrored about their border pixels to (N, C, height, width).

    `before` pixels come above and left, the rest below and right. However small the image is: what is mirrored is
    mirrored again (`torch.nn.functional.pad` refuses a border wider than the image).
    """
    rows = _mirrored(images.shape[-2], before, height, images.device)
    columns = _mirrored(images.shape[-1], before, width, images.device)
    return images[..., rows, :][..., columns]


def crop_center(features: Tensor, height: int, width: int) -> Tensor:
    """The middle (N, C, height, width) of `features` (N, C, H, W)."""
    top, left = (features.shape[-2] - height) // 2, (features.shape[-1] - width) // 2
    return features[..., top : top + height, left : left + width]


def _mirrored(size: int, before: int, length: int, device: torch.device) -> Tensor:
    """Indices into `size` pixels of `length` positions from -`before` on: 2 1 0 1 2 1 0 ..."""
    positions = torch.arange(-before, length - before, device=device)
    last = size - 1
    return last - (positions.remainder(max(1, 2 * last)) - last).abs()
