"""Things and stuff merged into one panoptic map, in which no pixel has two segments.

The heuristic of https://arxiv.org/abs/1801.00868 (section 7) as Panoptic FPN uses it, https://arxiv.org/abs/1901.02446.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shardlens.models.box_masks import PastedMasks
from shardlens.models.options import require

NOTHING, THING, STUFF = 0, 1, 2
"""Classes of the semantic branch: what nobody annotated, all things together, and the first kind of stuff."""


@dataclass(frozen=True)
class MergeRule:
    """When a segment stays."""

    stuff: tuple[int, ...]
    """Labels of the branch's classes from `STUFF` on."""
    least_visible: float
    """A thing of whose mask a smaller share is left by surer things is dropped."""
    stuff_area: int
    """Stuff of fewer pixels is dropped."""
    stuff_probability: float
    """A pixel belongs to stuff where the likeliest class is as probable as this."""

    def __post_init__(self) -> None:
        require("least_visible", self.least_visible, 0, 1)
        require("stuff_area", self.stuff_area, 0)
        require("stuff_probability", self.stuff_probability, 0, 1)


def merge(
    masks: Tensor | PastedMasks, labels: Tensor, scores: Tensor, probability_khw: Tensor, rule: MergeRule
) -> dict[str, Tensor]:
    """Give every pixel to one segment or to none.

    The surest thing goes first and takes what of its mask is free, if that is enough of it. What things leave goes to
    stuff, where it is likelier than nothing and things. The rest is void.

    Args:
        masks: (N, H, W) bool of the things, or what gives them one by one.
        labels: (N,) int64 of the things.
        scores: (N,).
        probability_khw: (K, H, W) of the semantic branch.

    Returns:
        panoptic (H, W) int64, 0 = void; of the segments 1 to S segment_labels (S,) int64, segment_scores (S,),
        segment_things (S,) bool.

    Raises:
        FloatingPointError: a probability is not a finite number.
    """
    if not torch.isfinite(probability_khw).all():
        raise FloatingPointError("the model gave values for its classes that are not finite numbers")
    panoptic = torch.zeros(probability_khw.shape[1:], dtype=torch.int64, device=probability_khw.device)
    kept: list[tuple[int, Tensor, bool]] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if int(labels[i]) in rule.stuff:  # which the semantic branch alone finds
            continue
        mask = masks[i]
        free = mask & (panoptic == 0)
        visible, area = int(free.sum()), int(mask.sum())
        if visible and visible >= rule.least_visible * area:
            kept.append((int(labels[i]), scores[i], True))
            panoptic[free] = len(kept)
    probability, classes = probability_khw.max(0)
    sure = (probability >= rule.stuff_probability) & (panoptic == 0)
    for place, label in enumerate(rule.stuff):
        region = sure & (classes == STUFF + place)
        if int(region.sum()) >= max(rule.stuff_area, 1):
            kept.append((label, probability[region].mean(), False))
            panoptic[region] = len(kept)
    return {
        "panoptic": panoptic,
        "segment_labels": labels.new_tensor([label for label, _, _ in kept]),
        "segment_scores": torch.stack([score for _, score, _ in kept]) if kept else scores.new_zeros(0),
        "segment_things": torch.tensor([thing for _, _, thing in kept], dtype=torch.bool, device=labels.device),
    }
