"""A small FCOS that trains in a minute on two CPU cores: torchvision's heads and losses on a light backbone.

FCOS: https://arxiv.org/abs/1904.01355, feature pyramids: https://arxiv.org/abs/1612.03144
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead

from shardlens.models.detection.fcos import SolidFCOS
from shardlens.models.options import require
from shardlens.models.spec import ModelSpec
from shardlens.models.torchvision_zoo import transform_rule

_STRIDES = (8, 16, 32)
_MEAN, _STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]


class SmallPyramid(nn.Module):
    """Five halvings of residual blocks, and the last three scales joined from the top down."""

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = [width, 2 * width, 4 * width, 4 * width, 4 * width]
        self.out_channels = 64
        self.stages = nn.ModuleList(_Stage(a, b) for a, b in zip([3, *channels], channels, strict=False))
        self.lateral = nn.ModuleList(nn.Conv2d(c, self.out_channels, 1) for c in channels[2:])
        self.smooth = nn.ModuleList(nn.Conv2d(self.out_channels, self.out_channels, 3, padding=1) for _ in channels[2:])

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Maps (N, 64, H / s, W / s) for the strides s = 8, 16, 32, of images (N, 3, H, W), H and W multiples of 32."""
        scales, x = [], images
        for stage in self.stages:
            x = stage(x)
            scales.append(x)
        maps: list[Tensor] = []
        for lateral, scale in zip(reversed(self.lateral), reversed(scales[2:]), strict=True):
            level = lateral(scale)
            maps.insert(0, level + F.interpolate(maps[0], scale_factor=2.0) if maps else level)
        return OrderedDict(
            (str(i), smooth(level)) for i, (smooth, level) in enumerate(zip(self.smooth, maps, strict=True))
        )


class _Stage(nn.Module):
    """A halving, then a residual block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down = _convolution(inputs, outputs, stride=2)
        self.block = _convolution(outputs, outputs, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.down(x)
        refined: Tensor = self.block(halved)
        return halved + refined


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _build(
    *,
    num_classes: int,
    width: int = 16,
    min_size: int = 128,
    max_size: int = 256,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.6,
    detections_per_image: int = 100,
) -> nn.Module:
    """`width` channels after the first halving; images are resized to `min_size` on their shorter side."""
    require("width", width, 1, 256)
    require("min_size", min_size, 32)
    require("max_size", max_size, min_size)
    require("score_threshold", score_threshold, 0, 1)
    require("nms_threshold", nms_threshold, 0, 1)
    require("detections_per_image", detections_per_image, 1)
    backbone = SmallPyramid(width)
    network: nn.Module = SolidFCOS(
        backbone,
        num_classes,
        min_size=min_size,
        max_size=max_size,
        image_mean=_MEAN,
        image_std=_STD,
        anchor_generator=AnchorGenerator(tuple((s,) for s in _STRIDES), ((1.0,),) * len(_STRIDES)),
        head=FCOSHead(backbone.out_channels, 1, num_classes, num_convs=2),
        score_thresh=score_threshold,
        nms_thresh=nms_threshold,
        detections_per_img=detections_per_image,
    )
    return network


SPEC = ModelSpec(
    name="fcos_small",
    task="detection",
    build=_build,
    input_rule=transform_rule,
    paper="https://arxiv.org/abs/1904.01355",
    score_option="score_threshold",
)
