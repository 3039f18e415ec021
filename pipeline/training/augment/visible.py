"""What stays of the objects of a changed image: boxes cut to it, those hardly seen dropped."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_SIDE = 2.0
"""Pixels that a box is wide and high at least."""


def cut_boxes(boxes: Tensor, height: int, width: int, least: float) -> tuple[Tensor, Tensor]:
    """Boxes cut to an image, and which of them are kept.

    A box is dropped if less than the share `least` of its area lies in the image, or if what does is less than two
    pixels wide or high: a network cannot see what it is, and a box without an area breaks its losses.

    Args:
        boxes: (N, 4) xyxy float32 in pixels, perhaps beyond the image.

    Returns:
        (M, 4) of the kept ones, and which, (N,) bool.
    """
    edges = boxes.new_tensor([width, height, width, height])
    inside = boxes.clamp(min=torch.zeros_like(edges), max=edges)
    sides, full = inside[:, 2:] - inside[:, :2], boxes[:, 2:] - boxes[:, :2]
    kept = (sides >= LEAST_SIDE).all(1) & (sides.prod(1) >= least * full.prod(1))
    return inside[kept], kept


def cut_masks(masks: Tensor, areas: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """The boxes around masks, and which of them are kept, by the rules of `cut_boxes`.

    Args:
        masks: (N, H, W) uint8 of 0 and 1, as they are to be seen.
        areas: (N,) pixels that each would have if nothing of it were hidden.

    Returns:
        (M, 4) xyxy float32 of the kept ones, and which, (N,) bool.
    """
    boxes = boxes_around(masks)
    sides = boxes[:, 2:] - boxes[:, :2]
    seen = masks.flatten(1).sum(1, dtype=torch.int64)
    kept = (sides >= LEAST_SIDE).all(1) & (seen >= least * areas)
    return boxes[kept], kept


def boxes_around(masks: Tensor) -> Tensor:
    """(N, 4) xyxy float32, the edges of the outermost pixels of masks (N, H, W); zeros of an empty one."""
    height, width = masks.shape[-2:]
    rows, columns = masks.amax(2).bool(), masks.amax(1).bool()
    sides = [_ends(columns, width), _ends(rows, height)]
    (x1, x2), (y1, y2) = sides
    return torch.stack([x1, y1, x2, y2], dim=1).float()


def _ends(seen: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """First and behind the last place of each row of (N, L) that is seen; zeros where none is."""
    places = torch.arange(length)
    last = torch.where(seen, places + 1, 0).amax(1)
    first = torch.where(seen, places, length).amin(1)
    return torch.minimum(first, last), last
