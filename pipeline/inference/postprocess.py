"""From a semantic network's probabilities to regions: a class for each pixel, then what the regions must look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shardlens.pipeline.images.gpu_copy import at_once
from shardlens.pipeline.masks.spans import Spans, filled, parts

Region = tuple[int, Spans]
"""A label and its pixels."""
Decision = tuple[npt.NDArray[np.integer], npt.NDArray[np.float32]]
"""The label of each pixel (H, W), and its probability (H, W)."""


@dataclass(frozen=True)
class PostProcessing:
    """What is done to the probabilities of a semantic network, in this order."""

    thresholds: tuple[tuple[int, float], ...] = ()
    """Labels that get a pixel where they reach this probability, before any other; those left get it by argmax."""
    fill_holes: bool = False
    """Background that a region encloses becomes the region's; once more when what is too small has become background."""
    min_area: int = 0
    """Connected parts (8 neighbors) of fewer pixels become background."""
    largest_component: bool = False
    """Of each class only its largest connected part stays."""
    components: bool = False
    """Each connected part becomes an object."""

    @property
    def drops_parts(self) -> bool:
        """Whether some connected parts may become background."""
        return self.largest_component or self.min_area > 1


def decide(probability_khw: Tensor, thresholds: tuple[tuple[int, float], ...] = ()) -> Decision:
    """Each pixel's label and its probability; see `decide_all`."""
    return decide_all([probability_khw], thresholds)[0]


def decide_all(maps: Sequence[Tensor], thresholds: tuple[tuple[int, float], ...] = ()) -> list[Decision]:
    """Each pixel's label and its probability, for images of any sizes.

    Of the labels with a threshold those that reach it go first, the most probable of them; where none does, the most
    probable of the other labels has the pixel.

    Args:
        maps: (K, H, W) probabilities of each image.

    Returns:
        (H, W) labels (uint8 up to 256 of them, else int32) and (H, W) float32 of each.

    Raises:
        FloatingPointError: the network gave something that is not a finite number.
    """
    chosen = [_chosen(probability, thresholds) for probability in maps]
    labels, probabilities = (at_once([each[i] for each in chosen]) for i in range(2))
    decided = [
        (classes.numpy(), probability.numpy()) for classes, probability in zip(labels, probabilities, strict=True)
    ]
    if not all(np.isfinite(probability).all() for _, probability in decided):
        raise FloatingPointError("the model gave values for its classes that are not finite numbers")
    return decided


def _chosen(probability_khw: Tensor, thresholds: tuple[tuple[int, float], ...]) -> tuple[Tensor, Tensor]:
    """(H, W) labels and (H, W) float32 on their device; where one of a pixel's values is no number, so is that."""
    rank = probability_khw
    if thresholds:
        rank = probability_khw.clone()
        for label, least in thresholds:  # probabilities lie in 0..1: what reaches its threshold is lifted above all
            rank[label] += torch.where(probability_khw[label] >= least, 2.0, -2.0)
    classes = rank.argmax(0)  # takes what is no number for the greatest
    kind = torch.uint8 if probability_khw.shape[0] <= 256 else torch.int32
    return classes.to(kind), probability_khw.gather(0, classes[None])[0].float()


def regions(spans_by_label: Mapping[int, Spans], rules: PostProcessing) -> list[Region]:
    """The regions that stay, by label, then by place; one a class, or one a connected part."""
    kept = dict(sorted(spans_by_label.items()))
    if rules.fill_holes:
        kept = _filled(kept)
    if rules.drops_parts:
        kept = {label: rest for label, spans in kept.items() if len((rest := _large_parts(spans, rules)).starts)}
        if rules.fill_holes:
            kept = _filled(kept)
    if not rules.components:
        return list(kept.items())
    return [(label, part) for label, spans in kept.items() for part in _each_part(spans)]


def _filled(spans_by_label: dict[int, Spans]) -> dict[int, Spans]:
    """Labels in their order, so that of two that enclose a hole the first has it."""
    kept = spans_by_label.copy()
    for label in kept:
        kept[label] = filled(kept[label], [other for k, other in kept.items() if k != label])
    return kept


def _large_parts(spans: Spans, rules: PostProcessing) -> Spans:
    number = parts(spans)
    areas = np.bincount(number, weights=spans.ends - spans.starts)
    kept = areas >= rules.min_area
    if rules.largest_component:
        kept &= np.arange(kept.size) == areas.argmax()
    return spans[kept[number]]


def _each_part(spans: Spans) -> list[Spans]:
    number = parts(spans)
    order = np.argsort(number, kind="stable")
    return [spans[chosen] for chosen in np.split(order, np.cumsum(np.bincount(number))[:-1])]
