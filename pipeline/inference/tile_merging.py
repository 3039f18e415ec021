"""Rows of an image's tiles as rows of the image: moved into its frame, each object once.

Where tiles overlap, two may see one object. Of such boxes the surer one stays, and one that no tile's edge cuts before one
that is cut. An object longer than the overlap is seen in parts only, which are joined where they meet at a seam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from shardlens.pipeline import masks
from shardlens.pipeline.images.orientation import Stored, mask_to_stored_frame, to_stored_frame
from shardlens.pipeline.inference.rows import ImageRows, turned
from shardlens.pipeline.inference.tiles import Grid, Tile
from shardlens.pipeline.masks.rle import Rle
from shardlens.pipeline.masks.spans import moved

SAME = 0.5
"""Two boxes of different tiles are one object above this IoU; one that its tile's edge cuts also if more than this of it
lies in the other."""
EDGE = 8.0
"""Pixels from a tile's edge within which a box counts as cut by it: a network seldom draws boxes up to the edge."""
ALONG = 0.5
"""Two parts that meet at a seam are one object above this IoU of their extents along the seam."""
LEFT, TOP, RIGHT, BOTTOM = range(4)

Boxes = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Candidates:
    """The boxes of all tiles of an image."""

    boxes: Boxes
    """(N, 4) xyxy in the upright image."""
    labels: Ints
    scores: Boxes
    tile: Ints
    """(N,) ascending, each box's tile."""
    windows: Boxes
    """(T, 4) xyxy of the tiles, row by row."""
    cut: Flags
    """(N, 4) whether the tile's left, top, right or bottom edge cuts the box."""

    @property
    def order(self) -> Ints:
        """(N,) who goes first in suppression: boxes that no edge cuts, then by score."""
        return np.lexsort((-self.scores, self.cut.any(axis=1)))


def merge(grid: Grid, rows_by_tile: Sequence[tuple[Tile, ImageRows]], image: Stored) -> ImageRows:
    """The rows of an image, best first, in the stored image's frame.

    Args:
        rows_by_tile: each tile of the grid and its rows in the tile's frame (upright), boxes within the tile.
    """
    counts = [len(rows.labels) for _, rows in rows_by_tile]
    tile = np.repeat(np.arange(len(rows_by_tile)), counts)
    boxes = np.concatenate([_placed(rows.boxes_xywh, window) for window, rows in rows_by_tile])
    windows = np.array([(t.left, t.top, t.right, t.bottom) for t, _ in rows_by_tile], dtype=np.float64)
    candidates = Candidates(
        boxes=boxes,
        labels=np.concatenate([rows.labels for _, rows in rows_by_tile]),
        scores=np.concatenate([rows.scores for _, rows in rows_by_tile]),
        tile=tile,
        windows=windows,
        cut=cut(boxes, windows[tile], grid),
    )
    objects = assemble(candidates)
    scores = np.array([candidates.scores[parts].max() for parts in objects])
    order = np.argsort(-scores, kind="stable")
    objects = [objects[i] for i in order]
    upright = np.array([_enclosing(boxes[parts]) for parts in objects]).reshape(-1, 4)
    stored = to_stored_frame(upright, image)
    xywh = np.concatenate([stored[:, :2], stored[:, 2:] - stored[:, :2]], axis=1)
    labels = candidates.labels[[parts[0] for parts in objects]] if objects else np.empty(0, np.int64)
    kind = next((rows.kind for _, rows in rows_by_tile if len(rows.labels)), rows_by_tile[0][1].kind)
    rles = _masks(rows_by_tile, objects, candidates, image) if kind == "instance" else ()
    return ImageRows(kind, labels, scores[order], xywh, rles)


def _masks(
    rows_by_tile: Sequence[tuple[Tile, ImageRows]], objects: Sequence[Ints], candidates: Candidates, image: Stored
) -> tuple[Rle, ...]:
    """The mask of each object in the stored image's frame."""
    tile = candidates.tile
    first = np.searchsorted(tile, tile)  # of each box, the number of its tile's first one
    corners = to_stored_frame(candidates.windows, image)[:, :2].astype(int)

    def placed(i: int) -> Rle:
        rle = turned(rows_by_tile[tile[i]][1].rles[i - first[i]], image.orientation)  # small, while it is a tile's
        left, top = corners[tile[i]].tolist()
        return moved(rle, top, left, image.height, image.width)

    return tuple(
        placed(parts[0]) if len(parts) == 1 else masks.union([placed(i) for i in parts]) for parts in map(list, objects)
    )


def assemble(candidates: Candidates) -> list[Ints]:
    """The objects, each the numbers of its boxes: one, or several parts that meet where tiles do."""
    pairs = _alike(candidates)
    joints = _joints(candidates, pairs)
    kept = once(candidates, pairs, joints)
    kept_joints = joints[np.isin(joints, kept).all(axis=1)]
    graph = coo_array(
        (np.ones(len(kept_joints), dtype=bool), (kept_joints[:, 0], kept_joints[:, 1])),
        shape=(len(candidates.boxes),) * 2,
    )
    group = connected_components(graph, directed=False)[1][kept]
    order = np.argsort(group, kind="stable")
    objects = np.split(kept[order], np.flatnonzero(np.diff(group[order])) + 1) if kept.size else []
    return _without_rests(candidates, objects)


def _without_rests(candidates: Candidates, objects: list[Ints]) -> list[Ints]:
    """Leave out cut boxes that lie in an object that was joined from several."""
    joined = [parts for parts in objects if len(parts) > 1]
    alone = np.array([parts[0] for parts in objects if len(parts) == 1], dtype=np.int64)
    for parts in joined:
        rest = candidates.cut[alone].any(axis=1) & (candidates.labels[alone] == candidates.labels[parts[0]])
        inter, area, _ = _areas(candidates.boxes[alone], _enclosing(candidates.boxes[parts])[None])
        alone = alone[~(rest & (inter > SAME * area))]
    return joined + [np.array([i]) for i in alone.tolist()]


def _enclosing(boxes: Boxes) -> Boxes:
    """(4,) the box around (N, 4) boxes."""
    around: Boxes = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    return around


def turned_block(
    window: Tile, classes_hw: npt.NDArray[np.integer], probability_hw: npt.NDArray[np.float32], image: Stored
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.float32], int, int]:
    """A block of an upright class map in the stored image's frame, and its top and left there."""
    corners = np.array([[window.left, window.top, window.right, window.bottom]], dtype=np.float64)
    left, top = to_stored_frame(corners, image)[0, :2].astype(int).tolist()
    classes = mask_to_stored_frame(classes_hw, image.orientation)
    return classes, mask_to_stored_frame(probability_hw, image.orientation), top, left


def cut(boxes: Boxes, windows: Boxes, grid: Grid) -> Flags:
    """(N, 4) which edges of its tile's window, xyxy, cut a box, xyxy; the image's own edges cut nothing."""
    inside = windows != np.array([0, 0, grid.width, grid.height])
    flags: Flags = (np.abs(boxes - windows) <= EDGE) & inside
    return flags


def _alike(candidates: Candidates) -> Ints:
    """(P, 2) boxes of one label in different tiles that may overlap or meet."""
    pairs = [np.stack(pair, axis=1) for pair in _overlaps(candidates.boxes, candidates.tile, candidates.windows)]
    every = np.concatenate(pairs) if pairs else np.empty((0, 2), np.int64)
    alike: Ints = every[candidates.labels[every[:, 0]] == candidates.labels[every[:, 1]]]
    return alike


def _joints(candidates: Candidates, pairs: Ints) -> Ints:
    """(J, 2) parts of one object that two neighboring tiles cut at their common seam; a part has one neighbor there.

    Each part reaches across the overlap to the edge that cuts it, so that in the overlap the two are seen alike.
    """
    boxes, cut_by, tile = candidates.boxes, candidates.cut, candidates.tile
    joints = []
    for near, far, along in ((RIGHT, LEFT, 1), (BOTTOM, TOP, 0)):  # the first tile of a pair is the left or upper one
        first, second = pairs[:, 0], pairs[:, 1]
        windows = candidates.windows
        in_line = windows[tile[first], along] == windows[tile[second], along]
        common = np.minimum(boxes[first, along + 2], boxes[second, along + 2]) - np.maximum(
            boxes[first, along], boxes[second, along]
        )
        total = np.maximum(boxes[first, along + 2], boxes[second, along + 2]) - np.minimum(
            boxes[first, along], boxes[second, along]
        )
        meeting = in_line & cut_by[first, near] & cut_by[second, far] & (common > ALONG * total)
        best = np.flatnonzero(meeting)[np.argsort(-(common[meeting] / total[meeting]), kind="stable")]
        taken: set[tuple[str, int, int]] = set()
        for a, b in pairs[best].tolist():
            ends = {("near", a, int(tile[b])), ("far", b, int(tile[a]))}
            if not ends & taken:
                taken |= ends
                joints.append((a, b))
    return np.array(joints, dtype=np.int64).reshape(-1, 2)


def once(candidates: Candidates, pairs: Ints, joints: Ints) -> Ints:
    """Numbers of the boxes that stay: non-maximum suppression, class by class, between boxes of different tiles.

    Args:
        pairs: (P, 2) boxes that may be one object.
        joints: (J, 2) of these, parts of one object, of which neither suppresses the other.
    """
    joined = set(map(tuple, joints.tolist()))
    pairs = pairs[[tuple(pair) not in joined for pair in pairs.tolist()]] if joined else pairs
    first, second = pairs[:, 0], pairs[:, 1]
    is_cut = np.asarray(candidates.cut.any(axis=1))
    inter, area_1, area_2 = _areas(candidates.boxes[first], candidates.boxes[second])
    same = inter > SAME * (area_1 + area_2 - inter)
    weaker: dict[int, list[int]] = {}
    for a, b, area in ((first, second, area_2), (second, first, area_1)):
        gone = same | (is_cut[b] & (inter > SAME * area))
        for stronger, other in zip(a[gone].tolist(), b[gone].tolist(), strict=True):
            weaker.setdefault(stronger, []).append(other)
    dropped = np.zeros(len(candidates.boxes), dtype=bool)
    kept = []
    for number in candidates.order.tolist():
        if not dropped[number]:
            kept.append(number)
            dropped[weaker.get(number, [])] = True
    return np.array(kept, dtype=np.int64)


def _overlaps(
    boxes: Boxes, tile: npt.NDArray[np.int64], windows: Boxes
) -> Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Pairs of boxes that may overlap or meet, for each two tiles that do."""
    cuts = np.searchsorted(tile, np.arange(len(windows) + 1))
    held = [t for t in range(len(windows)) if cuts[t + 1] > cuts[t]]
    pairs = []
    for place, one in enumerate(held):
        for two in held[place + 1 :]:
            if windows[two, 1] > windows[one, 3]:
                break  # all further tiles lie below
            common = np.append(
                np.maximum(windows[one, :2], windows[two, :2]), np.minimum(windows[one, 2:], windows[two, 2:])
            )
            if (common[2:] < common[:2]).any():
                continue
            first, second = (
                np.arange(cuts[t], cuts[t + 1])[_touch(boxes[cuts[t] : cuts[t + 1]], common)] for t in (one, two)
            )
            pairs.append((np.repeat(first, second.size), np.tile(second, first.size)))
    return pairs


def _touch(boxes: Boxes, window: Boxes) -> Flags:
    inside: Flags = (boxes[:, :2] <= window[2:]) & (boxes[:, 2:] >= window[:2])
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
