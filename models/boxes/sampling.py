"""Which regions of an image a two-stage detector is trained on: https://arxiv.org/abs/1504.08083, section 2.3."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from shardlens.models.boxes.matching import best_overlaps, matched


@dataclass(frozen=True)
class SamplingRule:
    """How many regions, and which."""

    regions: int = 64
    """Of an image: Fast R-CNN takes 128 from two."""
    foreground: float = 0.25
    """Largest share of regions that are objects."""
    positive_iou: float = 0.5
    """Regions that cover a true box this well are its class."""
    negative_iou: float = 0.1
    """Regions that cover their best box less than `positive_iou` and at least this are background."""


@dataclass(frozen=True)
class Sample:
    """Regions of one image, and what they should become."""

    regions: Tensor
    """(R, 4) xyxy."""
    labels: Tensor
    """(R,) int64, 0 = background."""
    truth: Tensor
    """(R, 4) xyxy: the true box of each; of the background's rows it means nothing."""


def sample_regions(proposals: Tensor, boxes: Tensor, labels: Tensor, rule: SamplingRule) -> Sample:
    """Choose at random among the proposals (P, 4) and the true boxes (M, 4) themselves, whose labels are (M,) int64.

    An image without objects has no region above `negative_iou`; there all are background.
    """
    candidates = torch.cat([proposals, boxes.to(proposals)])
    classes, index = classify(candidates, boxes.to(proposals), labels, rule)
    sampler = BalancedPositiveNegativeSampler(rule.regions, rule.foreground)
    positive, negative = sampler([classes])
    chosen = torch.where(positive[0] | negative[0])[0]
    return Sample(candidates[chosen], classes[chosen], matched(boxes.to(proposals), index[chosen]))


def classify(candidates: Tensor, boxes: Tensor, labels: Tensor, rule: SamplingRule) -> tuple[Tensor, Tensor]:
    """The class (N,) of each candidate, 0 = background, -1 = neither; and the true box (N,) that it covers best."""
    overlaps, index = best_overlaps(candidates, boxes)
    if len(boxes) == 0:
        return torch.zeros_like(index), index
    classes = torch.where(overlaps >= rule.positive_iou, labels[index], 0)
    classes[overlaps < rule.negative_iou] = -1
    return classes, index


def all_regions(proposals: int) -> SamplingRule:
    """Every proposal is a candidate, for the hardest to be chosen by their losses.

    True boxes may double the proposals; the sampler fills up with background what objects leave free.
    """
    return SamplingRule(2 * proposals, foreground=1.0, negative_iou=0.0)
