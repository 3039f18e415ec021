"""An image and what lies on it while they are changed together: tv_tensors, which torchvision's transforms move alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from shardlens.models.losses.segmentation import VOID
from shardlens.pipeline.training.augment.visible import cut_boxes, cut_masks
from shardlens.pipeline.training.samples import Sample

GRAY = (124.0, 116.0, 104.0)
"""Where there is no image: the mean of ImageNet, which is 0 once it is normalized."""
NOWHERE = -1.0
FILLS = {"masks": 0, "map": VOID, "border": 0}
"""Where there is no image: no object, nothing to learn from."""


@dataclass(frozen=True)
class Scene:
    """A sample that is being changed.

    Masks and maps are not moved along: `places` is, which says for each pixel where it came from, so that however many
    changes there are, one look at the masks gives what they have become.
    """

    sample: Sample
    image: tv_tensors.Image
    """(3, H, W) uint8."""
    boxes: tv_tensors.BoundingBoxes | None
    """(N, 4) xyxy, not cut to the image; None of semantic samples."""
    places: tv_tensors.Mask | None
    """(2, H, W) float32, row and column in the sample, NOWHERE = outside; None of samples with boxes alone."""
    zoom: float = 1.0
    """Area of an object now, by its area in the sample."""

    @classmethod
    def of(cls, sample: Sample) -> Scene:
        """The sample unchanged."""
        height, width = sample.image.shape[-2:]
        boxes = sample.target.get("boxes")
        drawn = FILLS.keys() & sample.target.keys()
        grid = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij") if drawn else None
        return cls(
            sample,
            tv_tensors.Image(sample.image),
            None if boxes is None else _boxes(boxes, height, width),
            None if grid is None else tv_tensors.Mask(torch.stack(grid)),
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.image.shape[-2:]
        return height, width

    def moved(self, by: Callable[..., Any], zoom: float = 1.0, **settings: Any) -> Scene:
        """Apply a geometric function of torchvision's to image, boxes and places."""
        return replace(
            self,
            image=by(self.image, **settings),
            boxes=None if self.boxes is None else by(self.boxes, **settings),
            places=None if self.places is None else by(self.places, **settings),
            zoom=self.zoom * zoom,
        )

    def filled(self, by: Callable[..., Any], zoom: float = 1.0, **settings: Any) -> Scene:
        """The same with a function that has to fill up what was outside."""

        def fill(inpt: Any) -> Any:
            if isinstance(inpt, tv_tensors.Mask):
                return by(inpt, fill=NOWHERE, **settings)
            if isinstance(inpt, tv_tensors.Image):
                return by(inpt, fill=list(GRAY), **settings)
            return by(inpt, **settings)

        return self.moved(fill, zoom)

    def settled(self, min_visible: float) -> Sample:
        """The sample that came of it, without the objects of which too little is seen."""
        target = dict(self.sample.target)
        for name in FILLS.keys() & target.keys():
            target[name] = _looked_up(target[name], self.places, FILLS[name])
        if self.boxes is not None:
            target = self._without_hidden(target, min_visible)
        return Sample(self.image.as_subclass(Tensor).contiguous(), target)

    def _without_hidden(self, target: dict[str, Tensor], min_visible: float) -> dict[str, Tensor]:
        if "masks" in target:
            areas = self.sample.target["masks"].flatten(1).sum(1, dtype=torch.int64) * self.zoom
            boxes, kept = cut_masks(target["masks"], areas, min_visible)
        else:
            assert self.boxes is not None
            boxes, kept = cut_boxes(self.boxes.as_subclass(Tensor), *self.size, min_visible)
        return {name: boxes if name == "boxes" else tensor[kept] for name, tensor in target.items()}


def mirrored(sample: Sample, vertically: bool = False) -> Sample:
    """The sample seen in a mirror: left and right, or top and bottom, exchanged in the image and all that lies on it."""
    flip = F.vertical_flip if vertically else F.horizontal_flip
    size = sample.image.shape[-2:]
    target = dict(sample.target)
    for name in FILLS.keys() & target.keys():
        target[name] = flip(tv_tensors.Mask(target[name])).as_subclass(Tensor)
    if "boxes" in target:
        target["boxes"] = flip(_boxes(target["boxes"], *size)).as_subclass(Tensor)
    return Sample(flip(tv_tensors.Image(sample.image)).as_subclass(Tensor), target)


def _boxes(boxes: Tensor, height: int, width: int) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width), clamping_mode=None)


def _looked_up(drawn: Tensor, places: Tensor | None, fill: int) -> Tensor:
    """What is `drawn`, (..., h, w), at `places`; `fill` where they are nowhere."""
    assert places is not None
    rows, columns = places.as_subclass(Tensor).long().unbind(0)
    outside = rows < 0
    found = drawn.flatten(-2)[..., (rows * drawn.shape[-1] + columns).clamp(min=0)]
    return found.masked_fill(outside, fill)
