"""Rows of an image's tiles as rows of the image: moved into its frame, an object that two tiles saw taken once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shardlens.pipeline.images.orientation import Stored, mask_to_stored_frame, to_stored_frame
from shardlens.pipeline.inference.rows import ImageRows, turned
from shardlens.pipeline.inference.tiles import Grid, Tile
from shardlens.pipeline.masks.spans import moved

SAME = 0.5
"""Two boxes of different tiles are one object above this IoU; one that its tile's edge cuts also if more than this of it
lies in the other."""
EDGE = 2.0
"""Pixels from a tile's edge within which a box ends there."""

Boxes = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def merge(grid: Grid, found: Sequence[tuple[Tile, ImageRows]], image: Stored) -> ImageRows:
    """The rows of an image, best first, in the stored image's frame.

    Args:
        found: each tile of the grid and its rows in the tile's frame (upright).
    """
    counts = [len(rows.labels) for _, rows in found]
    tile = np.repeat(np.arange(len(found)), counts)
    labels = np.concatenate([rows.labels for _, rows in found])
    scores = np.concatenate([rows.scores for _, rows in found])
    boxes = np.concatenate([_placed(rows.boxes_xywh, window) for window, rows in found])
    windows = np.array([(t.left, t.top, t.right, t.bottom) for t, _ in found], dtype=np.float64)
    is_cut = cut(boxes, windows[tile], grid)
    kept = once(boxes, labels, tile, windows, is_cut, np.lexsort((-scores, is_cut)))
    order = kept[np.argsort(-scores[kept], kind="stable")]
    upright = boxes[order]
    stored = to_stored_frame(upright, image)
    xywh = np.concatenate([stored[:, :2], stored[:, 2:] - stored[:, :2]], axis=1)
    kind = next((rows.kind for _, rows in found if len(rows.labels)), found[0][1].kind)
    first = np.cumsum(counts) - counts
    corners = to_stored_frame(windows, image)[:, :2].astype(int)
    rles = []
    for i in order if kind == "instance" else ():
        rle = turned(found[tile[i]][1].rles[i - first[tile[i]]], image.orientation)  # small, while it is a tile's
        left, top = corners[tile[i]].tolist()
        rles.append(moved(rle, top, left, image.height, image.width))
    return ImageRows(kind, labels[order], scores[order], xywh, tuple(rles))


def turned_block(
    window: Tile, classes_hw: npt.NDArray[np.integer], probability_hw: npt.NDArray[np.float32], image: Stored
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.float32], int, int]:
    """A block of an upright class map in the stored image's frame, and its top and left there."""
    corners = np.array([[window.left, window.top, window.right, window.bottom]], dtype=np.float64)
    left, top = to_stored_frame(corners, image)[0, :2].astype(int).tolist()
    classes = mask_to_stored_frame(classes_hw, image.orientation)
    return classes, mask_to_stored_frame(probability_hw, image.orientation), top, left


def cut(boxes: Boxes, windows: Boxes, grid: Grid) -> Flags:
    """(N,) whether a box, xyxy, ends at an edge of its tile's window, xyxy, that is none of the image's."""
    inside = windows != np.array([0, 0, grid.width, grid.height])
    flags: Flags = ((np.abs(boxes - windows) <= EDGE) & inside).any(axis=1)
    return flags


def once(
    boxes: Boxes,
    labels: npt.NDArray[np.int64],
    tile: npt.NDArray[np.int64],
    windows: Boxes,
    is_cut: Flags,
    order: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Numbers of the boxes that stay: non-maximum suppression, class by class, between boxes of different tiles.

    Args:
        boxes: (N, 4) xyxy.
        tile: (N,) ascending, each box's tile.
        windows: (T, 4) xyxy, row by row.
        order: who goes first.
    """
    weaker: dict[int, list[int]] = {}
    for first, second in _overlaps(boxes, tile, windows):
        alike = labels[first] == labels[second]
        first, second = first[alike], second[alike]
        inter, area_1, area_2 = _areas(boxes[first], boxes[second])
        same = inter > SAME * (area_1 + area_2 - inter)
        for drops, a, b, area in ((same, first, second, area_2), (same, second, first, area_1)):
            gone = drops | (is_cut[b] & (inter > SAME * area))
            for stronger, other in zip(a[gone].tolist(), b[gone].tolist(), strict=True):
                weaker.setdefault(stronger, []).append(other)
    dropped = np.zeros(len(boxes), dtype=bool)
    kept = []
    for number in order.tolist():
        if not dropped[number]:
            kept.append(number)
            dropped[weaker.get(number, [])] = True
    return np.array(kept, dtype=np.int64)


def _overlaps(
    boxes: Boxes, tile: npt.NDArray[np.int64], windows: Boxes
) -> Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Pairs of boxes that may overlap, for each two tiles that do."""
    cuts = np.searchsorted(tile, np.arange(len(windows) + 1))
    held = [t for t in range(len(windows)) if cuts[t + 1] > cuts[t]]
    found = []
    for place, one in enumerate(held):
        for two in held[place + 1 :]:
            if windows[two, 1] >= windows[one, 3]:
                break  # all further tiles lie below
            common = np.append(
                np.maximum(windows[one, :2], windows[two, :2]), np.minimum(windows[one, 2:], windows[two, 2:])
            )
            if (common[2:] <= common[:2]).any():
                continue
            first, second = (
                np.arange(cuts[t], cuts[t + 1])[_touch(boxes[cuts[t] : cuts[t + 1]], common)] for t in (one, two)
            )
            found.append((np.repeat(first, second.size), np.tile(second, first.size)))
    return found


def _touch(boxes: Boxes, window: Boxes) -> Flags:
    inside: Flags = (boxes[:, :2] < window[2:]) & (boxes[:, 2:] > window[:2])
    return inside[:, 0] & inside[:, 1]


def _areas(first: Boxes, second: Boxes) -> tuple[Boxes, Boxes, Boxes]:
    """(N,) areas of the pairs' intersections, and of either box."""
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    inter: Boxes = np.clip(sides, 0, None).prod(axis=1)
    return inter, (first[:, 2:] - first[:, :2]).prod(axis=1), (second[:, 2:] - second[:, :2]).prod(axis=1)


def _placed(boxes_xywh: Boxes, window: Tile) -> Boxes:
    """xyxy in the upright image."""
    corner = boxes_xywh[:, :2] + np.array([window.left, window.top])
    return np.concatenate([corner, corner + boxes_xywh[:, 2:]], axis=1)
