"""FRRN-A: a stream at full resolution that units only add to, and a stream that pools. https://arxiv.org/abs/1611.08323

Layer by layer as its authors build it: 17,746,803 parameters with the 19 classes of Cityscapes. The pooling stream grows
bilinearly; what a unit adds to the other stream is repeated.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardlens.models.options import require
from shardlens.models.segmentation.borders import pad_to_multiple
from shardlens.models.spec import InputRule, ModelSpec

_ENCODER = ((2, 2, 3), (4, 4, 4), (8, 8, 2), (16, 8, 2))
"""Scale, channels in widths, and number of units, from fine to coarse."""
_DECODER = ((8, 4, 2), (4, 4, 2), (2, 2, 2))
_MULTIPLE = 16


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions whose result is added to what came in, or to its projection where the channels differ."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_convolution(inputs, outputs), *_convolution(outputs, outputs)[:-1])
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        added: Tensor = self.skip(x) + self.body(x)
        return added


class FullResolutionUnit(nn.Module):
    """A full-resolution residual unit, whose pooling stream lies at 1 / `scale`."""

    def __init__(self, inputs: int, outputs: int, residual: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.body = nn.Sequential(*_convolution(inputs + residual, outputs), *_convolution(outputs, outputs))
        self.to_residual = nn.Conv2d(outputs, residual, 1)

    def forward(self, pooled: Tensor, full: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams, (N, C, H / scale, W / scale) and (N, R, H, W), one unit on."""
        pooled = self.body(torch.cat([pooled, F.max_pool2d(full, self.scale)], dim=1))
        return pooled, full + F.interpolate(self.to_residual(pooled), scale_factor=float(self.scale), mode="nearest")


class FRRN(nn.Module):
    """`width` channels before the streams part, twice to eight times as many in the pooling stream, `residual` in the other."""

    def __init__(self, num_classes: int, width: int, residual: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_convolution(3, width, 5), *(ResidualUnit(width, width) for _ in range(3)))
        self.split = nn.Sequential(*_convolution(width, residual, 1)[:-1])
        units, channels = [], width
        for scale, widths, count in (*_ENCODER, *_DECODER):
            for _ in range(count):
                units.append(FullResolutionUnit(channels, widths * width, residual, scale))
                channels = widths * width
        self.units = nn.ModuleList(units)
        inputs = (channels + residual, width, width)
        self.tail = nn.Sequential(*(ResidualUnit(each, width) for each in inputs))
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (N, K, H, W) under "out" of normalized images (N, 3, H, W); any H and W, padded with zeros inside."""
        height, width = images.shape[-2:]
        pooled = self.stem(pad_to_multiple(images, _MULTIPLE))
        full = self.split(pooled)
        for unit in self.units:
            pooled, full = unit(_at(pooled, full.shape[-1] // unit.scale), full)
        merged = torch.cat([_at(pooled, full.shape[-1]), full], dim=1)
        return {"out": self.classifier(self.tail(merged))[..., :height, :width]}


def _at(pooled: Tensor, width: int) -> Tensor:
    """The pooling stream at `width` pixels: pooled, interpolated, or as it is."""
    if pooled.shape[-1] > width:
        return F.max_pool2d(pooled, 2)
    if pooled.shape[-1] == width:
        return pooled
    return F.interpolate(pooled, scale_factor=2.0, mode="bilinear", align_corners=False)


def _convolution(inputs: int, outputs: int, size: int = 3) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _build(*, num_classes: int, width: int = 48, residual: int = 32) -> FRRN:
    """`residual` channels lie in the stream at full resolution."""
    require("width", width, 1, 512)
    require("residual", residual, 1, 512)
    return FRRN(num_classes, width, residual)


def _rule(model: nn.Module) -> InputRule:
    return InputRule(multiple=_MULTIPLE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


SPEC = ModelSpec(
    name="frrn_a",
    task="semantic",
    build=_build,
    input_rule=_rule,
    paper="https://arxiv.org/abs/1611.08323",
)
