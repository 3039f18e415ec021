"""A classifier of windows whose dense layers can be read as convolutions, so that it takes images of any size.

https://arxiv.org/abs/1312.6229, section 3.5
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardlens.models.backbones import Backbone
from shardlens.models.errors import ModelError
from shardlens.models.options import require


class WindowTrunk(nn.Module):
    """Features at one stride, then a dense layer over all features of a window and one behind it.

    Attributes:
        backbone: features (N, C, window / stride, window / stride) of a window.
        cells: the features along a window's side, the k of the k x k convolution.
    """

    def __init__(self, backbone: str, window: int, stride: int, hidden: int) -> None:
        super().__init__()
        require("hidden", hidden, 1)
        require("stride", stride, 1)
        require("window", window, 1)
        if window % stride:
            raise ModelError(f"option window is {window}; it must be a multiple of the stride {stride}")
        self.backbone = Backbone(backbone, (stride,))
        self.cells = window // stride
        self.first = nn.Linear(self.backbone.channels[0] * self.cells**2, hidden)
        self.second = nn.Linear(hidden, hidden)

    def forward(self, windows: Tensor) -> Tensor:
        """Hidden features (N, hidden) of windows (N, 3, window, window)."""
        (features,) = self.backbone(windows)
        return F.relu(self.second(F.relu(self.first(features.flatten(1)))))

    def convolved(self, images: Tensor) -> Tensor:
        """Hidden features (N, hidden, rows, columns) of every window of images (N, 3, H, W), by the same weights.

        A window inside of a larger image sees what lies around it where a window alone sees the padding.
        """
        (features,) = self.backbone(images)
        kernel = self.first.weight.reshape(-1, self.backbone.channels[0], self.cells, self.cells)
        return F.relu(as_convolution(self.second, F.relu(F.conv2d(features, kernel, self.first.bias))))


def as_convolution(dense: nn.Linear, features: Tensor) -> Tensor:
    """A dense layer at every place of `features` (N, C, h, w): a 1 x 1 convolution with its weights."""
    return F.conv2d(features, dense.weight[:, :, None, None], dense.bias)


class WindowClassifier(nn.Module):
    """A trunk and K logits."""

    def __init__(self, trunk: WindowTrunk, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.classes = nn.Linear(trunk.second.out_features, num_classes)

    def forward(self, windows: Tensor) -> Tensor:
        """Logits (N, K) of windows (N, 3, window, window)."""
        logits: Tensor = self.classes(self.trunk(windows))
        return logits

    def convolved(self, images: Tensor) -> Tensor:
        """Logits (N, K, rows, columns) of every window of images (N, 3, H, W)."""
        return as_convolution(self.classes, self.trunk.convolved(images))


def fitted(images: Tensor, resized: tuple[int, int], padded: tuple[int, int]) -> Tensor:
    """Images (N, 3, H, W) at the size `resized`, with zeros right and below up to `padded`, which the windows fill."""
    if tuple(images.shape[-2:]) != resized:
        images = F.interpolate(images, resized, mode="bilinear", antialias=True)
    return F.pad(images, (0, padded[1] - resized[1], 0, padded[0] - resized[0]))


def listed(maps: Tensor) -> Tensor:
    """Maps (N, C, rows, columns) as a list of windows, row by row: (N, rows x columns, C)."""
    return torch.flatten(maps, 2).transpose(1, 2)
