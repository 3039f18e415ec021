"""Images put together of several: mosaic, and instances pasted in by their masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from numpy.random import Generator
from torch import Tensor

from shardlens.pipeline.training.augment.scene import FILLS, GRAY
from shardlens.pipeline.training.augment.visible import cut_boxes, cut_masks
from shardlens.pipeline.training.samples import Sample

MIDDLE = (0.3, 0.7)
"""Where the four images of a mosaic meet: share of the width and of the height."""


def mosaic(samples: Sequence[Sample], rng: Generator, min_visible: float) -> Sample:
    """Four images, each the part of one, around a random point of a canvas of the first one's size.

    The parts keep their scale. YOLOv4, https://arxiv.org/abs/2004.10934.
    """
    height, width = samples[0].image.shape[-2:]
    y, x = (round(float(share) * side) for share, side in zip(rng.uniform(*MIDDLE, 2), (height, width), strict=True))
    corners = ((0, 0, y, x), (0, x, y, width), (y, 0, height, x), (y, x, height, width))
    parts = [
        window(sample, rng, (bottom - top, right - left), min_visible)
        for sample, (top, left, bottom, right) in zip(samples, corners, strict=True)
    ]
    upper, lower = _joined(parts[:2], across=True), _joined(parts[2:], across=True)
    return _joined([upper, lower], across=False)


def window(sample: Sample, rng: Generator, size: tuple[int, int], min_visible: float) -> Sample:
    """A random part of a sample, of `size` (height, width); gray and empty where the sample is smaller."""
    spare = [side - wanted for side, wanted in zip(sample.image.shape[-2:], size, strict=True)]
    top, left = (int(rng.integers(min(amount, 0), max(amount, 0), endpoint=True)) for amount in spare)
    image = torch.tensor(GRAY).to(torch.uint8)[:, None, None].repeat(1, *size)
    target = dict(sample.target)
    for name in FILLS.keys() & target.keys():
        empty = target[name].new_full((*target[name].shape[:-2], *size), FILLS[name])
        target[name] = _laid(target[name], empty, top, left)
    if "boxes" in target:
        boxes = target["boxes"] - target["boxes"].new_tensor([left, top, left, top])
        inside, kept = cut_boxes(boxes, *size, min_visible)
        if "masks" in target:
            areas = sample.target["masks"].flatten(1).sum(1, dtype=torch.int64)
            inside, kept = cut_masks(target["masks"], areas, min_visible)
        target = {name: inside if name == "boxes" else tensor[kept] for name, tensor in target.items()}
    return Sample(_laid(sample.image, image, top, left), target)


def _laid(source: Tensor, canvas: Tensor, top: int, left: int) -> Tensor:
    """What of `source` lies on a canvas whose corner is at (top, left) of it; the canvas is written to."""
    height = min(source.shape[-2] - max(top, 0), canvas.shape[-2] - max(-top, 0))
    width = min(source.shape[-1] - max(left, 0), canvas.shape[-1] - max(-left, 0))
    part = source[..., max(top, 0) :, max(left, 0) :][..., :height, :width]
    canvas[..., max(-top, 0) :, max(-left, 0) :][..., :height, :width] = part
    return canvas


def _joined(parts: Sequence[Sample], across: bool) -> Sample:
    """Two samples side by side, or one above the other."""
    first, second = parts
    dim = -1 if across else -2
    image = torch.cat([first.image, second.image], dim)
    target: dict[str, Tensor] = {}
    for name in ("map", "border"):
        if name in first.target:
            target[name] = torch.cat([first.target[name], second.target[name]], dim)
    if "boxes" in first.target:
        length = first.image.shape[dim]
        shift = second.target["boxes"].new_tensor([length, 0, length, 0] if across else [0, length, 0, length])
        target["boxes"] = torch.cat([first.target["boxes"], second.target["boxes"] + shift])
        target["labels"] = torch.cat([first.target["labels"], second.target["labels"]])
    if "masks" in first.target:
        target["masks"] = torch.cat([_widened(first, image, False), _widened(second, image, True)])
    return Sample(image, target)


def _widened(part: Sample, image: Tensor, last: bool) -> Tensor:
    """The part's masks (N, H, W) on the whole image, of which it is the first or the last corner."""
    masks = part.target["masks"]
    height, width = masks.shape[-2:]
    canvas = masks.new_zeros((len(masks), *image.shape[-2:]))
    if last:
        canvas[:, canvas.shape[1] - height :, canvas.shape[2] - width :] = masks
    else:
        canvas[:, :height, :width] = masks
    return canvas


def copy_paste(sample: Sample, other: Sample, rng: Generator, min_visible: float) -> Sample:
    """Some instances of `other` pasted on `sample` by their masks; what they hide is gone.

    Simple Copy-Paste, https://arxiv.org/abs/2012.07177.
    """
    height, width = sample.image.shape[-2:]
    donor = window(other, rng, (height, width), min_visible)
    chosen = torch.from_numpy(rng.random(len(donor.target["labels"])) < 0.5)
    pasted = donor.target["masks"][chosen]
    hidden = pasted.amax(0).bool() if len(pasted) else torch.zeros(height, width, dtype=torch.bool)
    left = sample.target["masks"].masked_fill(hidden, 0)
    areas = sample.target["masks"].flatten(1).sum(1, dtype=torch.int64)
    boxes, kept = cut_masks(left, areas, min_visible)
    target = {
        "boxes": torch.cat([boxes, donor.target["boxes"][chosen]]),
        "labels": torch.cat([sample.target["labels"][kept], donor.target["labels"][chosen]]),
        "masks": torch.cat([left[kept], pasted]),
    }
    return Sample(torch.where(hidden, donor.image, sample.image), target)
