"""How CornerNet is built, and what the zoo says of it."""

from __future__ import annotations

from torchvision.models.detection.transform import GeneralizedRCNNTransform

from shardlens.models.backbones import MEAN, STD
from shardlens.models.boxes.suppression import suppression as rule_of
from shardlens.models.detection.cornernet.network import CornerHourglass, CornerNet
from shardlens.models.hourglass import STRIDE
from shardlens.models.options import require
from shardlens.models.spec import ModelSpec
from shardlens.models.torchvision_zoo import transform_rule


def _build(
    *,
    num_classes: int,
    stacks: int = 2,
    width: int = 256,
    depth: int = 5,
    blocks: int = 2,
    image_size: int = 512,
    corner_iou: float = 0.3,
    score_threshold: float = 0.05,
    suppression: str = "gaussian",
    nms_threshold: float = 0.5,
    detections_per_image: int = 100,
) -> CornerNet:
    """`stacks` hourglasses of `depth` halvings; the longer side of an image becomes `image_size`.

    Around a corner, what still makes a box of IoU `corner_iou` is no full mistake: the paper's last version has 0.3, its
    first 0.7. `suppression` is hard, linear or gaussian.
    """
    require("stacks", stacks, 1, 16)
    # Below 8 inputs, half the width, torch 2.14 corrupts memory in the strided 1x1 NHWC convolutions on CPUs.
    require("width", width, 16, 1024)
    require("depth", depth, 1, 6)
    require("blocks", blocks, 1, 8)
    require("image_size", image_size, 32)
    require("corner_iou", corner_iou, 0.01, 0.99)
    require("score_threshold", score_threshold, 0, 1)
    require("detections_per_image", detections_per_image, 1)
    transform = GeneralizedRCNNTransform(
        image_size, image_size, list(MEAN), list(STD), size_divisible=STRIDE * 2**depth
    )
    backbone = CornerHourglass(stacks, width, depth, blocks)
    rule = rule_of(suppression, nms_threshold)
    return CornerNet(num_classes, backbone, transform, corner_iou, score_threshold, rule, detections_per_image)


SPEC = ModelSpec(
    name="cornernet",
    task="detection",
    build=_build,
    input_rule=transform_rule,
    paper="https://arxiv.org/abs/1808.01244",
    score_option="score_threshold",
)
