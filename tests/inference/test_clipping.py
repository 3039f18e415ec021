"""Boxes end where their image does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shardlens.pipeline import masks
from shardlens.pipeline.images.decode import Decoded
from shardlens.pipeline.inference.rows import ImageRows, from_detection

BOXES = [
    [-20.0, 5.0, 30.0, 15.0],
    [10.0, 10.0, 70.0, 60.0],
    [2.0, 3.0, 20.0, 30.0],
    [-9.0, 2.0, -1.0, 8.0],
    [5.0, 5.0, 5.0, 9.0],
]


def rows(orientation: int = 1, scale: int = 1, **more: torch.Tensor) -> ImageRows:
    """Rows of an image that is 60 wide and 40 high upright, its pixels at a `scale`-th of that."""
    output = {
        "boxes": torch.tensor(BOXES) / scale,
        "labels": torch.arange(5),
        "scores": torch.linspace(0.9, 0.5, 5),
        **more,
    }
    stored = (40, 60) if orientation < 5 else (60, 40)
    return from_detection(
        output, Decoded(np.zeros((40 // scale, 60 // scale, 3), np.uint8), orientation, *stored), None
    )


@pytest.mark.parametrize("scale", [1, 2])
def test_boxes_are_clipped_and_those_outside_are_left_out(scale: int) -> None:
    found = rows(scale=scale)
    assert found.labels.tolist() == [0, 1, 2, 4]
    assert found.boxes_xywh.tolist() == [[0, 5, 30, 10], [10, 10, 50, 30], [2, 3, 18, 27], [5, 5, 0, 4]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_lie_in_the_stored_image(orientation: int) -> None:
    found = rows(orientation)
    width, height = (60, 40) if orientation < 5 else (40, 60)
    assert (found.boxes_xywh[:, :2] >= 0).all()
    assert (found.boxes_xywh[:, :2] + found.boxes_xywh[:, 2:] <= [width, height]).all()


def test_a_mask_is_stretched_over_the_box_as_the_network_drew_it() -> None:
    half = torch.zeros(5, 1, 28, 28)
    half[:, :, :, 14:] = 1.0  # the right half of each box
    found = rows(box_masks=half)
    x, y, width, height = masks.bbox(found.rles[0])
    assert (4 <= y <= 5, height <= 12, x + width) == (True, True, 30)
    assert 4 <= x <= 6
