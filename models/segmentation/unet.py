"""U-Net: an encoder and a decoder joined at every scale, for images of any size. https://arxiv.org/abs/1505.04597

By default it differs from the paper in four ways, as is common since: convolutions keep the size, batch normalization
follows them, there is no dropout, and it is narrower (width 32, 7.8 million parameters; the paper's 64 has 31 million).
With `padding` valid the convolutions shrink it as in the paper, 572 pixels to 388; the image is then mirrored beyond
its border, as the paper's overlap-tile strategy has it, so that logits come out for all of it.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardlens.models.errors import ModelError
from shardlens.models.options import require
from shardlens.models.segmentation.borders import crop_center, mirror, pad_to_multiple
from shardlens.models.spec import InputRule, ModelSpec

_MEAN, _STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


class UNet(nn.Module):
    """`depth` halvings; `width` channels at the largest scale, doubled at every halving.

    Attributes:
        multiple: of which images' sides are padded to a multiple; 1 with valid convolutions, which mirror.
    """

    def __init__(
        self, num_classes: int, depth: int, width: int, stem_stride: int, valid: bool = False, residual: bool = False
    ) -> None:
        super().__init__()
        channels = [width * 2**level for level in range(depth + 1)]
        block = partial(_Residual if residual else _double, padding=0 if valid else 1)
        self.depth, self.valid, self.stem_stride = depth, valid, stem_stride
        self.multiple = 1 if valid else stem_stride * 2**depth
        self.stem = nn.Sequential(*_stem(width, stem_stride)) if stem_stride > 1 else nn.Identity()
        inputs = [width if stem_stride > 1 else 3, *channels]
        self.encoder = nn.ModuleList(block(a, b) for a, b in zip(inputs, channels, strict=False))
        pairs = list(pairwise(channels))[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, shallow, 2, stride=2) for shallow, deep in pairs)
        self.decoder = nn.ModuleList(block(2 * shallow, shallow) for shallow, _ in pairs)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (N, K, H, W) under "out" of normalized images (N, 3, H, W); any H and W."""
        height, width = images.shape[-2:]
        if self.valid:
            high, wide = valid_input(height, self.depth), valid_input(width, self.depth)
            padded = mirror(images, valid_margin(self.depth), high, wide)
        else:
            padded = pad_to_multiple(images, self.multiple)
        return {"out": self.network(padded)[..., :height, :width]}

    def network(self, images: Tensor) -> Tensor:
        """Logits of images as they are: of sides a multiple of `multiple`, or such as `valid_input` gives.

        Valid convolutions give them for the middle alone, `valid_margin` pixels from the border.
        """
        x = self.stem(images)
        scales = []
        for level, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if level else x)
            scales.append(x)
        for up, block, skipped in zip(self.up, self.decoder, scales[-2::-1], strict=True):
            x = up(x)
            x = block(torch.cat([crop_center(skipped, x.shape[-2], x.shape[-1]), x], dim=1))
        logits: Tensor = self.classifier(x)
        if self.stem_stride > 1:
            logits = F.interpolate(logits, scale_factor=self.stem_stride, mode="bilinear", align_corners=False)
        return logits


def valid_input(pixels: int, depth: int) -> int:
    """The shortest side that pools evenly at each of `depth` scales and leaves at least `pixels` of logits."""
    smallest = 1 << depth
    bottom = -(-(pixels + 4 * (smallest - 1)) // smallest) + 4
    return smallest * bottom + 4 * (smallest - 1)


def valid_margin(depth: int) -> int:
    """Pixels that valid convolutions take from each side of an image."""
    return 6 * (1 << depth) - 4


class _Residual(nn.Module):
    """Two convolutions and a 1x1 shortcut."""

    def __init__(self, inputs: int, outputs: int, padding: int) -> None:
        super().__init__()
        self.body = _double(inputs, outputs, padding)[:-1]
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        body = self.body(x)
        return F.relu(body + crop_center(self.shortcut(x), body.shape[-2], body.shape[-1]))


def _double(inputs: int, outputs: int, padding: int) -> nn.Sequential:
    first, second = (_convolution(channels, outputs, 3, 1, padding) for channels in (inputs, outputs))
    return nn.Sequential(*first, *second)


def _stem(width: int, stride: int) -> list[nn.Module]:
    return _convolution(3, width, 2 * stride, stride, stride // 2)  # each output in the middle of its pixels


def _convolution(inputs: int, outputs: int, size: int, stride: int, padding: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _build(
    *,
    num_classes: int,
    depth: int = 4,
    width: int = 32,
    stem_stride: int = 1,
    padding: str = "same",
    residual: bool = False,
) -> UNet:
    """With `stem_stride` 2 or 4 the largest scale is a half or a quarter of the image: faster, with softer borders."""
    require("depth", depth, 1, 8)
    require("width", width, 1, 1024)
    if stem_stride not in (1, 2, 4):
        raise ModelError(f"option stem_stride is {stem_stride}; it must be 1, 2 or 4")
    if padding not in ("same", "valid"):
        raise ModelError(f"option padding is {padding!r}; it must be same or valid")
    if padding == "valid" and stem_stride > 1:
        raise ModelError(f"option stem_stride is {stem_stride}; with padding=valid it must be 1")
    return UNet(num_classes, depth, width, stem_stride, padding == "valid", residual)


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
