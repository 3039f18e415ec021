"""Fast R-CNN: one feature map, regions from outside pooled to 7 x 7, one network for class and box.

https://arxiv.org/abs/1504.08083
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import roi_pool

from shardlens.models.backbones import Backbone
from shardlens.models.boxes.sampling import SamplingRule
from shardlens.models.detection.external_proposals import ExternalProposals, external_proposals
from shardlens.models.detection.region_heads import RegionHeads, Target, Verdict
from shardlens.models.detection.selection import Detections, selection
from shardlens.models.detection.two_stage import resizing
from shardlens.models.options import require
from shardlens.models.spec import ModelSpec
from shardlens.models.torchvision_zoo import transform_rule

POOLED = 7
"""Cells along each side of a pooled region."""
_STRIDE = 16


class PooledHead(nn.Module):
    """VGG-16's two dense layers over each pooled region, then K logits and four codes for each class."""

    def __init__(self, inputs: int, hidden: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Sequential(
            nn.Linear(inputs * POOLED * POOLED, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        self.classes = nn.Linear(hidden, num_classes)
        self.boxes = nn.Linear(hidden, 4 * num_classes)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.boxes.weight, std=0.001)

    def forward(self, features: Tensor, regions: Sequence[Tensor]) -> Verdict:
        """Judge the regions of each image, (R, 4) xyxy in input pixels, by `features` (N, C, h, w) at stride 16."""
        pooled = roi_pool(features.float(), [each.float() for each in regions], POOLED, 1 / _STRIDE)
        hidden = self.dense(pooled.flatten(1).to(features))
        return Verdict(self.classes(hidden), self.boxes(hidden))


class FastRCNN(nn.Module):
    """Proposals are searched for in the image as it comes, then follow it into the network's input size."""

    def __init__(
        self, transform: nn.Module, proposals: ExternalProposals, backbone: Backbone, heads: RegionHeads
    ) -> None:
        super().__init__()
        self.transform = transform
        self.proposals = proposals
        self.backbone = backbone
        self.heads = heads

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """Losses in training, else detections of each image, in its own pixels."""
        sizes = [tuple(image.shape[-2:]) for image in images]
        found = self.proposals(images)
        batch, resized = self.transform(list(images), targets)
        moved = [resize_boxes(boxes, *pair) for boxes, *pair in zip(found, sizes, batch.image_sizes, strict=True)]
        (features,) = self.backbone(batch.tensors)
        if self.training:
            return self.heads.losses(features, moved, resized)
        judged = self.heads(features, moved, batch.image_sizes)
        detections: list[Detections] = self.transform.postprocess(judged, batch.image_sizes, sizes)  # type: ignore[operator]
        return detections


def _build(
    *,
    num_classes: int,
    backbone: str = "vgg16",
    hidden: int = 4096,
    dropout: float = 0.5,
    search: str = "fast",
    proposals: int = 2000,
    min_size: int = 600,
    max_size: int = 1000,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.3,
    suppression: str = "hard",
    detections_per_image: int = 100,
) -> nn.Module:
    """`search`: fast (eight runs of selective search) or single (one). `suppression`: hard, linear or gaussian."""
    require("hidden", hidden, 1)
    require("dropout", dropout, 0, 0.99)
    require("proposals", proposals, 1)
    features = Backbone(backbone, (_STRIDE,))
    head = PooledHead(features.channels[0], hidden, num_classes, dropout)
    select = selection(score_threshold, nms_threshold, detections_per_image, suppression)
    heads = RegionHeads(head, SamplingRule(), select)
    return FastRCNN(resizing(min_size, max_size), external_proposals(search, proposals), features, heads)


SPEC = ModelSpec(
    name="fast_rcnn",
    task="detection",
    build=_build,
    input_rule=transform_rule,
    paper="https://arxiv.org/abs/1504.08083",
    score_option="score_threshold",
)
