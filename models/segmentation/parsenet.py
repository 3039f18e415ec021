"""ParseNet: every pixel sees the mean over the whole image, both scaled to one length. https://arxiv.org/abs/1506.04579

Built as the paper builds it on DeepLab's VGG: stride 8, fc6 as a 3x3 convolution of dilation 12.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardlens.models.backbones import MEAN, STD
from shardlens.models.options import require
from shardlens.models.segmentation.borders import pad_to_multiple
from shardlens.models.segmentation.vgg import VGG, convolutionised
from shardlens.models.spec import InputRule, ModelSpec

_STRIDE = 8
_FIRST_SCALE = 10.0


class L2Norm(nn.Module):
    """Features of length one across the channels, times a learned scale per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), _FIRST_SCALE))

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return F.normalize(features, dim=1) * self.scale[:, None, None]


class ParseNet(nn.Module):
    """Scores of each pixel's features next to the image's mean features, interpolated."""

    def __init__(self, num_classes: int, backbone: VGG, head_width: int) -> None:
        super().__init__()
        self.backbone = backbone.dilate()
        self.head = convolutionised(backbone.channels[-1], head_width, size=3, dilation=12)
        self.local_norm, self.global_norm = L2Norm(head_width), L2Norm(head_width)
        self.score = nn.Conv2d(2 * head_width, num_classes, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (N, K, H, W) under "out" of normalized images (N, 3, H, W); any H and W, padded with zeros inside."""
        height, width = images.shape[-2:]
        features = self.head(self.backbone(pad_to_multiple(images, _STRIDE))[-1])
        scores = self.score(self.with_context(features))
        logits = F.interpolate(scores, scale_factor=_STRIDE, mode="bilinear", align_corners=False)
        return {"out": logits[..., :height, :width]}

    def with_context(self, features: Tensor) -> Tensor:
        """(N, 2C, H, W) of features (N, C, H, W): each pixel's own, then the image's mean."""
        mean = self.global_norm(features.mean(dim=(2, 3), keepdim=True))
        return torch.cat([self.local_norm(features), mean.expand_as(features)], dim=1)


def _build(*, num_classes: int, backbone: str = "vgg16", width: int = 64, head_width: int = 1024) -> ParseNet:
    """`backbone` is one of VGG's, `width` its channels at the largest scale, `head_width` those of fc6 and fc7."""
    require("head_width", head_width, 1, 4096)
    return ParseNet(num_classes, VGG(backbone, width), head_width)


def _rule(model: nn.Module) -> InputRule:
    return InputRule(multiple=_STRIDE, mean=MEAN, std=STD)


SPEC = ModelSpec(
    name="parsenet",
    task="semantic",
    build=_build,
    input_rule=_rule,
    paper="https://arxiv.org/abs/1506.04579",
)
