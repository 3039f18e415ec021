"""U-Net: an encoder and a decoder joined at every scale, for images of any size. https://arxiv.org/abs/1505.04597

Two changes are common since: convolutions keep the size (the paper's shrink it), and batch normalisation follows them.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import ModelError
from models.options import require
from models.spec import InputRule, ModelSpec

_MEAN, _STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


class UNet(nn.Module):
    """`depth` halvings; `width` channels at the largest scale, doubled at every halving."""

    def __init__(self, num_classes: int, depth: int, width: int, stem_stride: int) -> None:
        super().__init__()
        channels = [width * 2**level for level in range(depth + 1)]
        self.multiple = stem_stride * 2**depth
        self.stem_stride = stem_stride
        self.stem = nn.Sequential(*_convolution(3, width, stem_stride)) if stem_stride > 1 else nn.Identity()
        inputs = [width if stem_stride > 1 else 3, *channels]
        self.encoder = nn.ModuleList(_double(a, b) for a, b in zip(inputs, channels, strict=False))
        pairs = list(pairwise(channels))[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, shallow, 2, stride=2) for shallow, deep in pairs)
        self.decoder = nn.ModuleList(_double(2 * shallow, shallow) for shallow, _ in pairs)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (N, K, H, W) under "out" of normalised images (N, 3, H, W); any H and W, padded with zeros inside."""
        height, width = images.shape[-2:]
        x = self.stem(F.pad(images, (0, -width % self.multiple, 0, -height % self.multiple)))
        scales = []
        for level, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if level else x)
            scales.append(x)
        for up, block, skipped in zip(self.up, self.decoder, scales[-2::-1], strict=True):
            x = block(torch.cat([skipped, up(x)], dim=1))
        logits = self.classifier(x)
        if self.stem_stride > 1:
            logits = F.interpolate(logits, scale_factor=self.stem_stride, mode="bilinear", align_corners=False)
        return {"out": logits[..., :height, :width]}


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*_convolution(inputs, outputs), *_convolution(outputs, outputs))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    size, padding = (3, 1) if stride == 1 else (2 * stride, stride // 2)  # each output in the middle of its pixels
    return [
        nn.Conv2d(inputs, outputs, size, stride, padding, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def _build(*, num_classes: int, depth: int = 4, width: int = 32, stem_stride: int = 1) -> UNet:
    """With `stem_stride` 2 or 4 the largest scale is a half or a quarter of the image: faster, with softer borders."""
    require("depth", depth, 1, 8)
    require("width", width, 1, 1024)
    if stem_stride not in (1, 2, 4):
        raise ModelError(f"option stem_stride is {stem_stride}; it must be 1, 2 or 4")
    return UNet(num_classes, depth, width, stem_stride)


def _rule(model: nn.Module) -> InputRule:
    multiple = model.multiple
    assert isinstance(multiple, int)
    return InputRule(multiple=multiple, mean=_MEAN, std=_STD)


SPEC = ModelSpec(
    name="unet",
    task="semantic",
    build=_build,
    input_rule=_rule,
    paper="https://arxiv.org/abs/1505.04597",
)
