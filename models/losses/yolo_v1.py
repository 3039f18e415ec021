"""The multi-part loss of the first YOLO: squares of everything, of one box and one object a cell.

https://arxiv.org/abs/1506.02640, section 2.2
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from shardlens.models.boxes.overlap import iou

COORDINATES, NO_OBJECT = 5.0, 0.5
"""lambda_coord and lambda_noobj."""


class Cells(NamedTuple):
    """The network's output, cell by cell: S rows of S columns."""

    boxes: Tensor
    """(N, S, S, B, 4): center as a share of the cell, then the square roots of width and height as shares of the image."""
    confidence: Tensor
    """(N, S, S, B): the IoU that the box is believed to have with an object."""
    classes: Tensor
    """(N, S, S, C): probabilities, given that there is an object."""


class Truth(NamedTuple):
    """The objects of a batch, at most one a cell, T in all."""

    place: tuple[Tensor, Tensor, Tensor]
    """Image, row and column, (T,) int64 each."""
    boxes: Tensor
    """(T, 4), coded as `Cells.boxes`."""
    labels: Tensor
    """(T,) int64."""


def decode(boxes: Tensor, row: Tensor, column: Tensor, grid: int) -> Tensor:
    """Boxes (..., 4) xyxy as shares of the image, of boxes (..., 4) as in `Cells` at `row` and `column` (...)."""
    center = (boxes[..., :2] + torch.stack([column, row], dim=-1)) / grid
    half = boxes[..., 2:] ** 2 / 2
    return torch.cat([center - half, center + half], dim=-1)


def read_truth(targets: Sequence[Mapping[str, Tensor]], sizes: Sequence[tuple[int, int]], grid: int) -> Truth:
    """The objects of `targets`, boxes (N, 4) xyxy in pixels of images of `sizes` (height, width).

    A cell has one object, the last of those with their center in it; boxes without area are left out.
    """
    shares = [t["boxes"] / t["boxes"].new_tensor([w, h, w, h]) for t, (h, w) in zip(targets, sizes, strict=True)]
    boxes, labels = torch.cat(shares).float(), torch.cat([target["labels"] for target in targets])
    image = torch.cat([torch.full_like(target["labels"], i) for i, target in enumerate(targets)])
    center, size = (boxes[:, :2] + boxes[:, 2:]) / 2 * grid, boxes[:, 2:] - boxes[:, :2]
    solid = torch.where((size > 0).all(dim=1))[0]
    cell = center.long().clamp(0, grid - 1)
    places, inverse = torch.unique(((image * grid + cell[:, 1]) * grid + cell[:, 0])[solid], return_inverse=True)
    last = solid.new_zeros(len(places)).scatter_reduce(0, inverse, solid, "amax", include_self=False)
    coded = torch.cat([center - cell, size.clamp(min=0).sqrt()], dim=1)[last]
    return Truth((image[last], cell[last, 1], cell[last, 0]), coded, labels[last])


def losses(cells: Cells, truth: Truth) -> dict[str, Tensor]:
    """The paper's sum of squares, in parts; each the mean over the images.

    Of a cell with an object the box that overlaps it most is responsible: its place and size are to be the object's, its
    confidence their IoU. All other confidences are to be 0. The cell's classes are to be the object's.
    """
    images, grid = cells.boxes.shape[:2]
    _, row, column = truth.place
    found = cells.boxes[truth.place]
    with torch.no_grad():
        box = decode(truth.boxes, row, column, grid)
        overlaps = iou(decode(found, row[:, None], column[:, None], grid), box[:, None])
        responsible = choose(overlaps, found, truth.boxes)
    own = torch.arange(len(responsible), device=responsible.device), responsible
    confidence = cells.confidence[truth.place][own]
    empty = torch.ones_like(cells.confidence)
    empty[(*truth.place, responsible)] = 0
    classes = F.one_hot(truth.labels, cells.classes.shape[-1])
    parts = {
        "box": COORDINATES * (found[own] - truth.boxes).square().sum(),
        "object": (confidence - overlaps[own]).square().sum(),
        "no_object": NO_OBJECT * (empty * cells.confidence**2).sum(),
        "classes": (cells.classes[truth.place] - classes).square().sum(),
    }
    return {name: part / images for name, part in parts.items()}


def choose(overlaps: Tensor, found: Tensor, wanted: Tensor) -> Tensor:
    """The responsible box (T,) of each cell: the highest of `overlaps` (T, B); the nearest where none overlaps.

    `found` (T, B, 4) and `wanted` (T, 4) are coded as in `Cells`.
    """
    distance = (found - wanted[:, None]).square().sum(dim=2)
    return torch.where(overlaps.amax(dim=1) > 0, overlaps.argmax(dim=1), distance.argmin(dim=1))
