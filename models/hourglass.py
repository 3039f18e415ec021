"""The hourglass: a network that shrinks its features step by step and grows them back, with skips at every scale.

Stacked hourglasses: https://arxiv.org/abs/1603.06937. CornerNet's: https://arxiv.org/abs/1808.01244, section 3.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 4
"""Pixels of the image for each cell of an hourglass's finest scale."""

Block = Callable[[int, int, int], nn.Module]
"""Makes a residual block of input channels, output channels and stride."""


class Hourglass(nn.Module):
    """`blocks` residual blocks at each scale: on the skip, on the way down, on the way up; `middle` at the coarsest.

    `channels` are those of the scales, finest first; each scale is half as large as the one before.
    """

    def __init__(self, channels: Sequence[int], blocks: int, middle: int, block: Block) -> None:
        super().__init__()
        here, below, *deeper = channels
        inner = Hourglass([below, *deeper], blocks, middle, block) if deeper else _repeated(block, below, middle)
        self.skip = _repeated(block, here, blocks)
        self.down = nn.Sequential(block(here, below, 2), _repeated(block, below, blocks - 1))
        self.inner = inner
        self.up = nn.Sequential(_repeated(block, below, blocks - 1), block(below, here, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Features of the shape of x (N, C, H, W); H and W divide by 2 at every scale."""
        returned = F.interpolate(self.up(self.inner(self.down(x))), scale_factor=2.0)
        skipped: Tensor = self.skip(x)
        return skipped + returned


def _repeated(block: Block, width: int, times: int) -> nn.Sequential:
    return nn.Sequential(*(block(width, width, 1) for _ in range(times)))


class Residual(nn.Module):
    """CornerNet's block: two 3x3 convolutions with norms, added to their input."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, 3, stride)
        self.second = norm_of(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False))
        plain = inputs == outputs and stride == 1
        self.skip = nn.Identity() if plain else norm_of(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(N, outputs, H / stride, W / stride) of (N, inputs, H, W)."""
        return F.relu(self.second(self.first(x)) + self.skip(x))


class Bottleneck(nn.Module):
    """The stacked hourglass's block: norms and ReLUs before 1x1, 3x3 and 1x1 convolutions; a stride is max pooling."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        narrow = max(1, outputs // 2)
        self.pool = nn.MaxPool2d(stride) if stride > 1 else nn.Identity()
        self.layers = nn.Sequential(
            *_activated(inputs, narrow, 1), *_activated(narrow, narrow, 3), *_activated(narrow, outputs, 1)
        )
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, outputs, H / stride, W / stride) of (N, inputs, H, W)."""
        pooled = self.pool(x)
        refined: Tensor = self.layers(pooled) + self.skip(pooled)
        return refined


def _activated(inputs: int, outputs: int, size: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, size, padding=size // 2)]


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """Convolution that keeps the size but for its stride, norm, ReLU."""
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def norm_of(layer: nn.Conv2d) -> nn.Sequential:
    """`layer` and a norm after it."""
    return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels))
