"""FCOS on any backbone: torchvision's heads and losses, a feature pyramid, a choice of levels.

FCOS: https://arxiv.org/abs/1904.01355, feature pyramids: https://arxiv.org/abs/1612.03144
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from shardlens.models.backbones import MEAN, STD, Backbone
from shardlens.models.detection.selection import SolidDetections
from shardlens.models.errors import ModelError
from shardlens.models.options import require
from shardlens.models.spec import ModelSpec
from shardlens.models.torchvision_zoo import transform_rule

_STRIDES = (8, 16, 32)
_COARSER = (64, 128)


class PyramidBackbone(Backbone):
    """A classifier's features at strides 8, 16 and 32 joined from the top down; with `levels` 5 two coarser ones too.

    The classifier keeps its names; the pyramid's begin with `fpn`.
    """

    def __init__(self, name: str, width: int, levels: int) -> None:
        super().__init__(name, _STRIDES)
        coarser = LastLevelP6P7(width, width) if levels == 5 else None
        self.fpn = FeaturePyramidNetwork(list(self.channels), width, extra_blocks=coarser)
        self.out_channels = width

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:  # type: ignore[override]
        """Maps (N, width, H / s, W / s), rounded up, for each stride s, of images (N, 3, H, W)."""
        scales = OrderedDict((str(i), scale) for i, scale in enumerate(super().forward(images)))
        maps: OrderedDict[str, Tensor] = self.fpn(scales)
        return maps


class SolidFCOS(SolidDetections, FCOS):  # type: ignore[misc]  # torchvision is not typed
    """Torchvision's, without detections of no width or height."""


def _build(
    *,
    num_classes: int,
    backbone: str = "resnet50",
    width: int = 256,
    convolutions: int = 4,
    levels: int = 5,
    min_size: int = 800,
    max_size: int = 1333,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.6,
    detections_per_image: int = 100,
) -> nn.Module:
    """`convolutions` before each classifier, of `width` channels; `levels` 3 (strides 8 to 32) or 5 (to 128)."""
    if levels not in (3, 5):
        raise ModelError(f"option levels is {levels}; it must be 3 or 5")
    if width < 32 or width % 32:
        raise ModelError(f"option width is {width}; it must be a multiple of 32, as the norms group channels")
    strides = (_STRIDES + _COARSER)[:levels]
    require("min_size", min_size, strides[-1] + 1)  # the head's norms need more than one place
    require("convolutions", convolutions, 1)
    require("max_size", max_size, min_size)
    require("score_threshold", score_threshold, 0, 1)
    require("nms_threshold", nms_threshold, 0, 1)
    require("detections_per_image", detections_per_image, 1)
    settings: dict[str, Any] = {
        "min_size": min_size,
        "max_size": max_size,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "anchor_generator": AnchorGenerator(tuple((s,) for s in strides), ((1.0,),) * levels),
        "head": FCOSHead(width, 1, num_classes, num_convs=convolutions),
        "score_thresh": score_threshold,
        "nms_thresh": nms_threshold,
        "detections_per_img": detections_per_image,
    }
    network: nn.Module = SolidFCOS(PyramidBackbone(backbone, width, levels), num_classes, **settings)
    return network


SPEC = ModelSpec(
    name="fcos",
    task="detection",
    build=_build,
    input_rule=transform_rule,
    paper="https://arxiv.org/abs/1904.01355",
    score_option="score_threshold",
)
