"""R-FCN: every layer over the whole image; each class has k x k score maps, one for each part of an object.

https://arxiv.org/abs/1605.06409
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import ps_roi_align, ps_roi_pool

from shardlens.models.boxes.sampling import SamplingRule, all_regions
from shardlens.models.detection.region_heads import RegionHeads, Verdict
from shardlens.models.detection.selection import selection
from shardlens.models.detection.two_stage import ProposalRule, TwoStage, region_proposals, resizing, stride_16
from shardlens.models.options import require
from shardlens.models.spec import ModelSpec
from shardlens.models.torchvision_zoo import transform_rule


class PositionSensitiveHead(nn.Module):
    """k x k x K score maps and k x k x 4 box maps; a region's part (i, j) votes with the maps of that part alone.

    A region is rounded to whole cells of 16 pixels, as torchvision's `ps_roi_pool` does; the authors' code rounds it to
    whole pixels, one longer, and only its parts to cells. `aligned` it stays where it is, and the maps are interpolated.
    """

    def __init__(self, inputs: int, width: int, num_classes: int, parts: int, aligned: bool = False) -> None:
        super().__init__()
        self.parts, self.aligned = parts, aligned
        # Maps begin by torch's rule, about 0.02 at the paper's width of 1024: its own 0.01 is too little at smaller widths.
        self.reduce = nn.Conv2d(inputs, width, 1)
        self.score_maps = nn.Conv2d(width, parts * parts * num_classes, 1)
        self.box_maps = nn.Conv2d(width, parts * parts * 4, 1)

    def forward(self, features: Tensor, regions: Sequence[Tensor]) -> Verdict:
        """Votes of `features` (N, C, h, w) at stride 16 on each region of each image, (R, 4) xyxy in input pixels."""
        reduced = F.relu(self.reduce(features))
        return Verdict(self._vote(self.score_maps(reduced), regions), self._vote(self.box_maps(reduced), regions))

    def _vote(self, maps: Tensor, regions: Sequence[Tensor]) -> Tensor:
        """Mean over the parts: (R, maps / k^2)."""
        pool = partial(ps_roi_align, sampling_ratio=2) if self.aligned else ps_roi_pool
        parts: Tensor = pool(maps.float(), [each.float() for each in regions], self.parts, 1 / 16)
        return parts.mean((2, 3))


def _build(
    *,
    num_classes: int,
    backbone: str = "resnet101",
    parts: int = 7,
    width: int = 1024,
    aligned: bool = False,
    min_size: int = 600,
    max_size: int = 1000,
    smallest_anchor: int = 128,
    anchor_sizes: int = 3,
    proposals: int = 300,
    hard_examples: int = 128,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.3,
    suppression: str = "hard",
    detections_per_image: int = 100,
) -> nn.Module:
    """`parts` is the paper's k; `aligned` regions are not rounded to cells, which small objects want. `hard_examples`
    regions of an image count in the loss, those that cost most; 0 = 128 of which a quarter are objects, at random.
    `suppression`: hard, linear or gaussian.
    """
    require("parts", parts, 1, 16)
    require("width", width, 1)
    require("hard_examples", hard_examples, 0)
    features = stride_16(backbone)
    rule = ProposalRule(smallest_anchor, anchor_sizes, proposals, proposals)
    select = selection(score_threshold, nms_threshold, detections_per_image, suppression)
    return TwoStage(
        resizing(min_size, max_size),
        features,
        region_proposals(features.channels[0], rule),
        RegionHeads(
            PositionSensitiveHead(features.channels[-1], width, num_classes, parts, aligned),
            all_regions(proposals) if hard_examples else SamplingRule(128, negative_iou=0.0),
            select,
            hard_examples,
        ),
    )


SPEC = ModelSpec(
    name="rfcn",
    task="detection",
    build=_build,
    input_rule=transform_rule,
    paper="https://arxiv.org/abs/1605.06409",
    score_option="score_threshold",
)
