"""The frame of the stored image, in which the tables are, and the upright one, which networks see: EXIF lies between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from shardlens.pipeline import masks
from shardlens.pipeline.masks.rle import Rle

INVERSE = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
"""EXIF orientation -> the one that undoes it (Exif 2.32, tag 0x0112)."""
Sides = int | npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]

Pixel = TypeVar("Pixel", bound=np.generic)


class Stored(Protocol):
    """How an image is stored."""

    @property
    def orientation(self) -> int:
        """EXIF orientation, 1 to 8."""

    @property
    def height(self) -> int:
        """In pixels."""

    @property
    def width(self) -> int:
        """In pixels."""


def inverse(orientation: int) -> int:
    """The EXIF orientation that turns an image back; all but the quarter turns undo themselves."""
    return {6: 8, 8: 6}.get(orientation, orientation)


def turned_shape(image: Stored) -> tuple[int, int]:
    """Height and width of the upright image."""
    return (image.width, image.height) if image.orientation >= 5 else (image.height, image.width)


def to_stored_frame(boxes_xyxy: npt.NDArray[np.float64], image: Stored) -> npt.NDArray[np.float64]:
    """Carry boxes from the upright image back into the stored image's frame.

    Args:
        boxes_xyxy: (N, 4) left, top, right, bottom in pixels of the upright image.

    Returns:
        (N, 4) of the stored image.
    """
    if image.orientation == 1:
        return boxes_xyxy
    x1, y1, x2, y2 = boxes_xyxy.T
    width, height = image.width, image.height
    columns = {
        2: (width - x2, y1, width - x1, y2),
        3: (width - x2, height - y2, width - x1, height - y1),
        4: (x1, height - y2, x2, height - y1),
        5: (y1, x1, y2, x2),
        6: (y1, height - x2, y2, height - x1),
        7: (width - y2, height - x2, width - y1, height - x1),
        8: (width - y2, x1, width - y1, x2),
    }[image.orientation]
    return np.stack(columns, axis=1)


def points_to_stored_frame(points_xy: Numbers, orientation: int, width: Sides, height: Sides) -> Numbers:
    """Carry points of the upright image into the frame of the stored image, which has `width` and `height`.

    Args:
        points_xy: (N, 2) x, y in pixels, 0 at the edge of the image.
    """
    x, y = points_xy.T
    columns = {
        1: (x, y),
        2: (width - x, y),
        3: (width - x, height - y),
        4: (x, height - y),
        5: (y, x),
        6: (y, height - x),
        7: (width - y, height - x),
        8: (width - y, x),
    }[orientation]
    return np.stack(columns, axis=1)


def boxes_xywh_to_stored_frame(boxes_xywh: Numbers, orientation: int, width: Sides, height: Sides) -> Numbers:
    """Carry boxes of the upright image into the frame of the stored image, which has `width` and `height`.

    Args:
        boxes_xywh: (N, 4) x, y of the top left corner, width, height; in pixels.
    """
    left_top, right_bottom = boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    corners = [points_to_stored_frame(corner, orientation, width, height) for corner in (left_top, right_bottom)]
    size = boxes_xywh[:, [3, 2]] if orientation >= 5 else boxes_xywh[:, 2:]
    return np.concatenate([np.minimum(*corners), size], axis=1)


def rle_to_stored_frame(rle: Rle, orientation: int) -> Rle:
    """Carry a mask of the upright image into the frame of the stored image."""
    return rle if orientation == 1 else masks.encode(mask_to_stored_frame(masks.decode(rle), orientation))


def mask_to_stored_frame(mask_hw: npt.NDArray[Pixel], orientation: int) -> npt.NDArray[Pixel]:
    """Carry a mask or map of the upright image (H, W) back into the stored image's frame."""
    turns: dict[int, Callable[[npt.NDArray[Pixel]], npt.NDArray[Pixel]]] = {
        1: lambda m: m,
        2: np.fliplr,
        3: lambda m: np.rot90(m, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda m: np.rot90(m, 1),
        7: lambda m: np.rot90(m, 2).T,
        8: lambda m: np.rot90(m, -1),
    }
    return np.ascontiguousarray(turns[orientation](mask_hw))
