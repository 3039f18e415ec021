"""Light-Head R-CNN: thin position-sensitive maps from a large separable convolution, and one small dense layer.

https://arxiv.org/abs/1711.07264
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import ps_roi_align

from shardlens.models.boxes.sampling import SamplingRule, all_regions
from shardlens.models.detection.region_heads import RegionHeads, Verdict
from shardlens.models.detection.selection import selection
from shardlens.models.detection.two_stage import ProposalRule, TwoStage, region_proposals, resizing, stride_16
from shardlens.models.errors import ModelError
from shardlens.models.options import require
from shardlens.models.spec import ModelSpec
from shardlens.models.torchvision_zoo import transform_rule


class LargeSeparableConvolution(nn.Module):
    """k x 1 then 1 x k, plus 1 x k then k x 1: the receptive field of a k x k convolution at a fraction of its cost."""

    def __init__(self, inputs: int, middle: int, outputs: int, kernel: int) -> None:
        super().__init__()
        tall, wide = (kernel, 1), (1, kernel)
        self.tall_first = _two(inputs, middle, outputs, tall, wide)
        self.wide_first = _two(inputs, middle, outputs, wide, tall)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) to (N, outputs, h, w)."""
        one: Tensor = self.tall_first(x)
        other: Tensor = self.wide_first(x)
        return one + other


def _two(inputs: int, middle: int, outputs: int, first: tuple[int, int], second: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, middle, first, padding=(first[0] // 2, first[1] // 2)),
        nn.Conv2d(middle, outputs, second, padding=(second[0] // 2, second[1] // 2)),
    )


class LightHead(nn.Module):
    """Thin maps, `thin` for each of p x p parts; aligned to the regions, then one dense layer for both answers."""

    def __init__(
        self, inputs: int, num_classes: int, *, parts: int, thin: int, kernel: int, middle: int, hidden: int
    ) -> None:
        super().__init__()
        self.parts = parts
        self.thin_maps = LargeSeparableConvolution(inputs, middle, thin * parts * parts, kernel)
        self.dense = nn.Linear(thin * parts * parts, hidden)
        self.classes = nn.Linear(hidden, num_classes)
        self.box = nn.Linear(hidden, 4)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.box.weight, std=0.001)

    def forward(self, features: Tensor, regions: Sequence[Tensor]) -> Verdict:
        """Judge the regions of each image, (R, 4) xyxy in input pixels, by `features` (N, C, h, w) at stride 16."""
        maps = F.relu(self.thin_maps(features))
        boxes = [each.float() for each in regions]
        parts = ps_roi_align(maps.float(), boxes, self.parts, 1 / 16, sampling_ratio=2)
        hidden = F.relu(self.dense(parts.flatten(1).to(maps)))
        return Verdict(self.classes(hidden), self.box(hidden))


def _build(
    *,
    num_classes: int,
    backbone: str = "resnet101",
    parts: int = 7,
    thin: int = 10,
    kernel: int = 15,
    middle: int = 256,
    hidden: int = 2048,
    min_size: int = 800,
    max_size: int = 1200,
    smallest_anchor: int = 32,
    anchor_sizes: int = 5,
    proposals: int = 1000,
    hard_examples: int = 256,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    suppression: str = "hard",
    detections_per_image: int = 100,
) -> nn.Module:
    """`parts` is the paper's p, `thin` its 10 maps a part, `kernel` and `middle` the separable convolution's k and Cmid,
    `hidden` the dense layer's width. `hard_examples` regions of an image count in the loss, those that cost most; 0 = 256
    of which a quarter are objects, at random. The box counts twice. `suppression`: hard, linear or gaussian.
    """
    for name, value in (("parts", parts), ("thin", thin), ("middle", middle), ("hidden", hidden)):
        require(name, value, 1)
    if kernel % 2 == 0 or kernel < 1:
        raise ModelError(f"option kernel is {kernel}; it must be odd, for the maps to keep their size")
    require("hard_examples", hard_examples, 0)
    features = stride_16(backbone)
    head = LightHead(
        features.channels[-1], num_classes, parts=parts, thin=thin, kernel=kernel, middle=middle, hidden=hidden
    )
    return TwoStage(
        resizing(min_size, max_size),
        features,
        region_proposals(features.channels[0], ProposalRule(smallest_anchor, anchor_sizes, 2 * proposals, proposals)),
        RegionHeads(
            head,
            all_regions(2 * proposals) if hard_examples else SamplingRule(256, negative_iou=0.0),
            selection(score_threshold, nms_threshold, detections_per_image, suppression),
            hard_examples,
            box_weight=2.0,
        ),
    )


SPEC = ModelSpec(
    name="light_head_rcnn",
    task="detection",
    build=_build,
    input_rule=transform_rule,
    paper="https://arxiv.org/abs/1711.07264",
    score_option="score_threshold",
)
