"""Two-stage detectors over one feature map: a region proposal network, and heads that judge its proposals.

Region proposal network: https://arxiv.org/abs/1506.01497
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import Conv2dNormActivation

from shardlens.models.backbones import MEAN, STD, Backbone
from shardlens.models.detection.region_heads import RegionHeads, Target
from shardlens.models.detection.selection import Detections
from shardlens.models.options import require

RATIOS = (0.5, 1.0, 2.0)
PROPOSAL_WIDTH = 512
"""Channels between the features and what the region proposal network says, whatever the features have."""


@dataclass(frozen=True)
class ProposalRule:
    """Anchors, and how many proposals come of them."""

    smallest_anchor: int
    """Length of the sides of the smallest square anchor in pixels; each further one is twice as long."""
    anchor_sizes: int
    training: int
    """Proposals of an image in training, at most."""
    testing: int

    def __post_init__(self) -> None:
        require("smallest_anchor", self.smallest_anchor, 1)
        require("anchor_sizes", self.anchor_sizes, 1)
        require("proposals", self.testing, 1)


def resizing(min_size: int, max_size: int) -> nn.Module:
    """Resize (the shorter side `min_size`, the longer at most `max_size`), ImageNet's normalization, padding to 32."""
    require("min_size", min_size, 32)
    require("max_size", max_size, min_size)
    transform: nn.Module = GeneralizedRCNNTransform(min_size, max_size, list(MEAN), list(STD))
    return transform


def region_proposals(channels: int, rule: ProposalRule) -> nn.Module:
    """Region proposal network with Faster R-CNN's settings: three ratios of each size, 256 anchors of an image."""
    sizes = tuple(rule.smallest_anchor << i for i in range(rule.anchor_sizes))
    anchors = AnchorGenerator((sizes,), (RATIOS,))
    before = {"training": 6 * rule.training, "testing": 6 * rule.testing}
    after = {"training": rule.training, "testing": rule.testing}
    head = RPNHead(PROPOSAL_WIDTH, anchors.num_anchors_per_location()[0])
    head.conv = nn.Sequential(Conv2dNormActivation(channels, PROPOSAL_WIDTH, norm_layer=None))
    nn.init.normal_(head.conv[0][0].weight, std=0.01)
    nn.init.zeros_(head.conv[0][0].bias)
    network: nn.Module = RegionProposalNetwork(anchors, head, 0.7, 0.3, 256, 0.5, before, after, 0.7)
    return network


def stride_16(name: str) -> Backbone:
    """Backbone whose last features stay at stride 16: those of a ResNet's third and fourth stage, else the one map.

    The fourth stage's own stride is taken back and its 3x3 convolutions are dilated instead (a trous), as R-FCN has it.
    """
    resnet = name.startswith(("resnet", "resnext", "wide_resnet"))
    backbone = Backbone(name, (16, 32) if resnet else (16,))
    if resnet:
        for convolution in (m for m in backbone.get_submodule("layer4").modules() if isinstance(m, nn.Conv2d)):
            if convolution.stride == (2, 2):
                convolution.stride = (1, 1)
            elif convolution.kernel_size == (3, 3):
                convolution.dilation = convolution.padding = (2, 2)
        backbone.strides = (16, 16)
    return backbone


class TwoStage(nn.Module):
    """Backbone at stride 16, proposals from its first map, heads on its last."""

    def __init__(self, transform: nn.Module, backbone: Backbone, rpn: nn.Module, heads: RegionHeads) -> None:
        super().__init__()
        self.transform = transform
        self.backbone = backbone
        self.rpn = rpn
        self.heads = heads

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """Losses in training, else detections of each image, in its own pixels."""
        sizes = [tuple(image.shape[-2:]) for image in images]
        batch, resized = self.transform(list(images), targets)
        maps = self.backbone(batch.tensors)
        proposals, losses = self.rpn(batch, OrderedDict([("0", maps[0])]), resized)
        if self.training:
            return {**losses, **self.heads.losses(maps[-1], proposals, resized)}
        found = self.heads(maps[-1], proposals, batch.image_sizes)
        detections: list[Detections] = self.transform.postprocess(found, batch.image_sizes, sizes)  # type: ignore[operator]
        return detections
