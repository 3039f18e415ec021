"""Windows that slide over an image at several scales, and which of them a classifier is trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from shardlens.models.boxes.matching import best_overlaps
from shardlens.models.errors import ModelError
from shardlens.models.options import require

Size = tuple[int, int]
"""(height, width) in pixels, or (rows, columns) of windows."""


@dataclass(frozen=True)
class Pyramid:
    """Square windows of one side and one stride, over an image resized by each of several factors."""

    window: int
    """Length of a window's sides, in pixels of the resized image."""
    stride: int
    """From one window to the next, in the same pixels."""
    scales: tuple[float, ...]
    """Factors of the image's size; a small one lets the window see a large part of the image."""

    def __post_init__(self) -> None:
        require("stride", self.stride, 1)
        require("window", self.window, self.stride)

    def resized(self, size: Size, scale: float) -> Size:
        """The image's (height, width) at a scale."""
        return math.ceil(size[0] * scale), math.ceil(size[1] * scale)

    def grid(self, size: Size, scale: float) -> Size:
        """(rows, columns) of windows at a scale: as many as cover the image, the last one may hang over its edge."""
        high, wide = self.resized(size, scale)
        return self._along(high), self._along(wide)

    def _along(self, side: int) -> int:
        return 1 + max(0, -(-(side - self.window) // self.stride))

    def padded(self, size: Size, scale: float) -> Size:
        """(height, width) that exactly the grid's windows fill."""
        rows, columns = self.grid(size, scale)
        return self.window + (rows - 1) * self.stride, self.window + (columns - 1) * self.stride

    def count(self, size: Size) -> int:
        """Windows of an image, all scales together: the sum of rows x columns."""
        return sum(math.prod(self.grid(size, scale)) for scale in self.scales)

    def boxes(self, size: Size) -> Tensor:
        """All windows (T, 4) xyxy, in pixels of the image itself: scale by scale, row by row."""
        return torch.cat([self._boxes_at(size, scale) for scale in self.scales])

    def _boxes_at(self, size: Size, scale: float) -> Tensor:
        rows, columns = self.grid(size, scale)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        corner = torch.stack([x, y], dim=-1).reshape(-1, 2).float() * self.stride
        return torch.cat([corner, corner + self.window], dim=1) / scale


def parse_scales(text: str) -> tuple[float, ...]:
    """Factors from an option's text, such as "1,0.7,0.5".

    Raises:
        ModelError: it is none, or one is not above 0.
    """
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ModelError(f"option scales is {text!r}; expected numbers with commas between them") from None
    if not all(0 < scale < math.inf for scale in scales):
        raise ModelError(f"option scales is {text!r}; each must be above 0")
    return scales


@dataclass(frozen=True)
class WindowSample:
    """Windows of one image that are learned from."""

    index: Tensor
    """(S,) int64: which windows."""
    labels: Tensor
    """(S,) int64, 0 = background."""
    truth: Tensor
    """(S,) int64: the true box of each; of the background's it means nothing."""


def sample_windows(windows: Tensor, boxes: Tensor, labels: Tensor, count: int, size: Size) -> WindowSample:
    """At most `count` windows, half of them objects if there are as many.

    A window that covers a true box with IoU 0.5 is of its class, and so is the one that covers a true box best, if any
    does. Windows whose center lies outside of the image are left out.

    Args:
        windows: (T, 4) xyxy.
        boxes: (M, 4) xyxy in the same pixels, of labels (M,) int64.
        size: the image's (height, width).
    """
    overlaps, truth = best_overlaps(windows, boxes)
    classes = torch.where(overlaps >= 0.5, labels[truth], 0) if len(boxes) else torch.zeros_like(truth)
    classes[~inside(windows, size)] = -1
    if len(boxes):
        most, best = best_overlaps(boxes, windows)
        touched = torch.where(most > 0)[0]
        classes[best[touched]], truth[best[touched]] = labels[touched], touched
    positive, negative = BalancedPositiveNegativeSampler(count, 0.5)([classes])
    index = torch.where(positive[0] | negative[0])[0]
    return WindowSample(index, classes[index], truth[index])


def inside(windows: Tensor, size: Size) -> Tensor:
    """Whether the center of each window (T, 4) lies in the image of `size`: (T,) bool."""
    x, y = (windows[:, 0] + windows[:, 2]) / 2, (windows[:, 1] + windows[:, 3]) / 2
    return (x < size[1]) & (y < size[0])


def joined(samples: Sequence[WindowSample], windows: int) -> tuple[Tensor, Tensor]:
    """Indices into the windows of all images laid end to end, `windows` of each; and their labels."""
    index = torch.cat([sample.index + i * windows for i, sample in enumerate(samples)])
    return index, torch.cat([sample.labels for sample in samples])
