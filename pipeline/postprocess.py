"""From a semantic network's probabilities to regions: a class for each pixel, then what the regions must look like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.spans import Spans, filled, parts

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
    """Background that a region encloses becomes the region's."""
    min_area: int = 0
    """Connected parts (8 neighbours) of fewer pixels become background."""
    largest_component: bool = False
    """Of each class only its largest connected part stays."""
    components: bool = False
    """Each connected part becomes an object."""

    @property
    def of_parts(self) -> bool:
        """Whether it needs to know which pixels are connected."""
        return self.largest_component or self.components or self.min_area > 1


def decide(probability_khw: Tensor, thresholds: tuple[tuple[int, float], ...] = ()) -> Decision:
    """Each pixel's label and its probability.

    Of the labels with a threshold those that reach it go first, the most probable of them; where none does, the most
    probable of the other labels has the pixel.

    Args:
        probability_khw: (K, H, W).

    Returns:
        (H, W) labels (uint8 up to 256 of them, else int32) and (H, W) float32.

    Raises:
        FloatingPointError: the network gave something that is not a finite number.
    """
    if not torch.isfinite(probability_khw).all():
        raise FloatingPointError("the model gave values for its classes that are not finite numbers")
    rank = probability_khw
    if thresholds:
        rank = probability_khw.clone()
        for label, least in thresholds:  # probabilities lie in 0..1: what reaches its threshold is lifted above all
            rank[label] += torch.where(probability_khw[label] >= least, 2.0, -2.0)
    classes = rank.argmax(0)
    chosen = probability_khw.gather(0, classes[None])[0]
    kind = torch.uint8 if probability_khw.shape[0] <= 256 else torch.int32
    return classes.to(kind).cpu().numpy(), chosen.float().cpu().numpy()


def regions(found: Mapping[int, Spans], wanted: PostProcessing) -> list[Region]:
    """The regions that stay, by label, then by place; one a class, or one a connected part."""
    kept = dict(sorted(found.items()))
    if wanted.fill_holes:
        for label in kept:
            kept[label] = filled(kept[label], [other for k, other in kept.items() if k != label])
    if not wanted.of_parts:
        return list(kept.items())
    return [(label, part) for label, spans in kept.items() for part in _parts(spans, wanted)]


def _parts(spans: Spans, wanted: PostProcessing) -> Iterator[Spans]:
    number = parts(spans)
    areas = np.bincount(number, weights=spans.ends - spans.starts)
    kept = areas >= wanted.min_area
    if wanted.largest_component and kept.any():
        kept &= np.arange(kept.size) == areas.argmax()
    if not kept.any():
        return
    if not wanted.components:
        yield spans[kept[number]]
        return
    order = np.argsort(number, kind="stable")
    cuts = np.cumsum(np.bincount(number))[:-1]
    yield from (spans[chosen] for part, chosen in enumerate(np.split(order, cuts)) if kept[part])
