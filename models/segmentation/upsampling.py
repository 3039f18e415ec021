"""Transposed convolutions that begin as bilinear interpolation, and learn from there. https://arxiv.org/abs/1411.4038"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def bilinear_kernel(stride: int) -> Tensor:
    """The kernel (2 stride, 2 stride), float32, whose transposed convolution interpolates between pixels' centers."""
    offsets = torch.arange(2 * stride) + 0.5 - stride
    triangle = 1 - offsets.abs() / stride
    return triangle[:, None] * triangle[None, :]


def bilinear_upsampling(channels: int, stride: int) -> nn.ConvTranspose2d:
    """(N, C, H, W) to (N, C, stride * H, stride * W), each channel from itself alone at first; `stride` is even."""
    layer = nn.ConvTranspose2d(channels, channels, 2 * stride, stride, stride // 2, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[range(channels), range(channels)] = bilinear_kernel(stride)
    return layer
