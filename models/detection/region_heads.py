"""The second stage: regions of an image sampled, classified and moved; its loss, and the detections that come of it.

Fast R-CNN: https://arxiv.org/abs/1504.08083, online hard examples: https://arxiv.org/abs/1604.03540
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardlens.models.boxes.coding import NORMALIZED, decode, encode
from shardlens.models.boxes.sampling import Sample, SamplingRule, sample_regions
from shardlens.models.detection.selection import Detections, Selection, by_class

Target = Mapping[str, Tensor]
Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class Verdict:
    """What a head says of R regions."""

    logits: Tensor
    """(R, K), class 0 = background."""
    codes: Tensor
    """(R, 4), or (R, 4 K) where each class has a box of its own; coded with `NORMALIZED` weights."""


class RegionHeads(nn.Module):
    """Samples regions and judges them by `head(features, regions)`, regions a list of (R, 4), which gives a `Verdict`."""

    def __init__(
        self,
        head: nn.Module,
        sampling: SamplingRule,
        selection: Selection,
        hard_examples: int = 0,
        box_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.head = head
        self.sampling = sampling
        self.selection = selection
        self.hard_examples, self.box_weight = hard_examples, box_weight

    def losses(self, features: Tensor, proposals: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """`classification` and `box`, of the sampled regions of all images.

        Args:
            features: (N, C, h, w).
            proposals: for each image (P, 4) xyxy in pixels of the network's input.
            targets: for each image boxes (M, 4) in the same pixels, labels (M,).
        """
        samples = [
            sample_regions(found, target["boxes"], target["labels"], self.sampling)
            for found, target in zip(proposals, targets, strict=True)
        ]
        verdict: Verdict = self.head(features, [sample.regions for sample in samples])
        losses = region_losses(verdict, samples, self.hard_examples)
        return {**losses, "box": self.box_weight * losses["box"]}

    def forward(self, features: Tensor, proposals: Sequence[Tensor], sizes: Sequence[Size]) -> list[Detections]:
        """Detections of each image in pixels of the network's input, where image i has `sizes[i]`."""
        verdict: Verdict = self.head(features, list(proposals))
        counts = [len(found) for found in proposals]
        boxes = decode(verdict.codes.float(), torch.cat(list(proposals)), NORMALIZED)
        if boxes.shape[1] > 4:
            boxes = torch.unflatten(boxes, 1, (-1, 4))
        judged = zip(
            torch.split(boxes, counts), torch.split(verdict.logits.float().softmax(1), counts), sizes, strict=True
        )
        return [self.selection(*by_class(found, scores), size) for found, scores, size in judged]


def region_losses(verdict: Verdict, samples: Sequence[Sample], hard_examples: int = 0) -> dict[str, Tensor]:
    """Cross entropy of the class, and smooth L1 of the true class's box where there is one; means over the regions.

    With `hard_examples` only so many regions of each image count: those that cost the most.
    """
    labels = torch.cat([sample.labels for sample in samples])
    truth, regions = torch.cat([s.truth for s in samples]), torch.cat([s.regions for s in samples])
    classification = F.cross_entropy(verdict.logits.float(), labels, reduction="none")
    box = _box_costs(verdict.codes.float(), labels, truth, regions)
    counts = torch.ones_like(classification)
    if hard_examples:
        counts = _hardest((classification + box).detach(), [len(s.labels) for s in samples], hard_examples)
    total = counts.sum().clamp(min=1)
    return {"classification": (classification * counts).sum() / total, "box": (box * counts).sum() / total}


def _box_costs(codes: Tensor, labels: Tensor, truth: Tensor, regions: Tensor) -> Tensor:
    """Smooth L1 (R,) of the four codes of each region's own class; 0 for the background."""
    objects = labels > 0
    own = codes if codes.shape[1] == 4 else torch.unflatten(codes, 1, (-1, 4))[torch.arange(len(codes)), labels]
    wanted = encode(truth[objects], regions[objects], NORMALIZED)
    costs = torch.zeros(len(labels), device=codes.device)
    costs[objects] = F.smooth_l1_loss(own[objects], wanted, reduction="none").sum(1)
    return costs


def _hardest(costs: Tensor, counts: Sequence[int], wanted: int) -> Tensor:
    """1 for the `wanted` regions of each image that cost the most, 0 for the others."""
    chosen = torch.zeros_like(costs)
    start = 0
    for count in counts:
        best = costs[start : start + count].topk(min(wanted, count)).indices
        chosen[start + best] = 1.0
        start += count
    return chosen
