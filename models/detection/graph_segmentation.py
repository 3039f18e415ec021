"""Graph-based segmentation: neighboring pixels join as long as the difference between them is small compared with that within.

Felzenszwalb and Huttenlocher: https://doi.org/10.1023/B:VISI.0000022288.19776.77
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int32]
_SMOOTHING = 0.8
_CHUNKS = 32
_STEPS = 128
"""Distances of colors are distinguished in steps of 1 / 128."""
NEIGHBORS = (
    (np.s_[:, :-1], np.s_[:, 1:]),
    (np.s_[:-1], np.s_[1:]),
    (np.s_[:-1, :-1], np.s_[1:, 1:]),
    (np.s_[:-1, 1:], np.s_[1:, :-1]),
)
"""Both pixels of every pair that touches, corners included, as slices of the image."""


class Grid(NamedTuple):
    """An image's pixels and the E edges between neighbors, the lightest first."""

    shape: tuple[int, int]
    """(H, W)."""
    ends: Indices
    """(2, E) flat indices of the pixels at both ends."""
    weights: Floats
    """(E,) how far their colors lie apart."""


def pixel_grid(image: Floats) -> Grid:
    """The grid of an image (H, W, C) of about 0 to 255, which is smoothed first; a pixel has eight neighbors."""
    channels = [gaussian_filter(channel, _SMOOTHING) for channel in np.moveaxis(image, 2, 0)]
    height, width = image.shape[:2]
    number = np.arange(height * width, dtype=np.int32).reshape(height, width)
    ends = [np.stack([number[a].ravel(), number[b].ravel()]) for a, b in NEIGHBORS]
    apart = [np.sqrt(sum(np.square(c[a] - c[b]) for c in channels)).ravel() for a, b in NEIGHBORS]
    steps = (np.concatenate(apart) * _STEPS).astype(np.uint16)  # whole numbers, sorted in a tenth of the time
    order = np.argsort(steps, kind="stable")
    weights = steps[order].astype(np.float32) / np.float32(_STEPS)
    return Grid((height, width), np.concatenate(ends, axis=1)[:, order], weights)


def segment(grid: Grid, scale: float, min_size: int) -> Ints:
    """Segments of an image as a map (H, W) int64 of numbers from 0.

    The method takes the edges from light to heavy, and joins two segments if the edge weighs at most
    Int(C) + scale / |C| for both, Int(C) being the heaviest edge in C's spanning tree.

    Args:
        scale: the paper's k; larger gives larger segments.
        min_size: pixels; smaller segments are joined to a neighbor in the end.
    """
    forest = _Forest(math.prod(grid.shape), scale)
    cuts = np.linspace(0, len(grid.weights), _CHUNKS + 1).astype(int).tolist()
    for first, last in pairwise(cuts):
        forest.join(grid.ends[:, first:last], grid.weights[first:last])
    forest.join_small(grid.ends, min_size)
    names = np.zeros(len(forest.labels), np.int64)
    names[forest.labels] = 1
    return (names.cumsum() - 1)[forest.labels].reshape(grid.shape)


class _Forest:
    """Segments in the making.

    Edges come in chunks of rising weight, and most of a chunk is settled at once: edges inside a segment and those of
    a finished one are dropped (an edge that is refused finishes the lighter-bound of its two segments, for all later
    edges weigh more), and groups so small that no edge of the chunk can be refused are joined completely.
    """

    def __init__(self, pixels: int, scale: float) -> None:
        self.labels: Indices = np.arange(pixels, dtype=np.int32)
        self.sizes: Ints = np.ones(pixels, np.int64)
        self.inner: npt.NDArray[np.float64] = np.zeros(pixels)
        self.finished = np.zeros(pixels, bool)
        self.scale = scale

    def join(self, ends: Indices, weights: Floats) -> None:
        """Take a chunk of edges, lightest first, none lighter than those before."""
        segments, ends, weights = self._open_edges(ends, weights)
        if len(weights) == 0:
            return
        count = len(segments)
        group = _groups(ends, count)
        small = np.bincount(group, self.sizes[segments])[group] <= self.scale / max(weights[-1], 1e-12)
        target = np.arange(count)
        first = np.full(group.max() + 1, count)
        np.minimum.at(first, group, target)
        target[small] = first[group[small]]
        inner = self.inner[segments]
        whole = small[ends[0]]
        _raise_to_heaviest(inner, ends[:, whole], weights[whole], target)
        finished = np.zeros(count, bool)
        large, number = np.flatnonzero(~small), (~small).cumsum() - 1
        sizes = self.sizes[segments[large]]
        parent, heaviest, done = self._one_by_one(number[ends[:, ~whole]], weights[~whole], sizes, inner[large])
        target[large], inner[large], finished[large] = large[parent], heaviest, done
        self._relabel(segments, _roots(target), inner, finished)

    def _open_edges(self, ends: Indices, weights: Floats) -> tuple[Indices, Indices, Floats]:
        """The segments in question, and the edges between them that could still join two, the lightest of each pair."""
        a, b = self.labels[ends[0]], self.labels[ends[1]]
        live = (a != b) & ~(self.finished[a] | self.finished[b])
        segments, compact, lightest = self._lightest(a[live], b[live])
        return segments, compact, weights[live][lightest]

    def _lightest(self, a: Indices, b: Indices) -> tuple[Indices, Indices, Ints]:
        """The S segments among both ends of edges (E,), the lightest edge of each pair as (2, M) numbers of these, and which.

        Edges come and go from light to heavy.
        """
        low, high = np.minimum(a, b), np.maximum(a, b)
        _, first = np.unique(low.astype(np.int64) * len(self.labels) + high, return_index=True)
        first.sort()
        ends = np.stack([low[first], high[first]])
        number = np.zeros(len(self.labels), np.int32)
        number[ends] = 1
        segments = np.flatnonzero(number).astype(np.int32)
        number[segments] = np.arange(len(segments))
        return segments, number[ends], first

    def _one_by_one(
        self, ends: Ints, weights: Floats, sizes: Ints, inner: npt.NDArray[np.float64]
    ) -> tuple[list[int], list[float], list[bool]]:
        """The method as it stands in the paper, over edges (2, E) of segments whose sizes and heaviest edges are (N,).

        Returns:
            For each segment that which it was joined to, itself at last; its heaviest edge; whether it is finished.
        """
        count, heaviest, done = sizes.tolist(), inner.tolist(), [False] * len(sizes)
        parent = list(range(len(sizes)))
        for a, b, weight in zip(ends[0].tolist(), ends[1].tolist(), weights.tolist(), strict=True):
            while parent[a] != a:
                parent[a] = a = parent[parent[a]]
            while parent[b] != b:
                parent[b] = b = parent[parent[b]]
            if a == b:
                continue
            fits_a = not done[a] and weight <= heaviest[a] + self.scale / count[a]
            fits_b = not done[b] and weight <= heaviest[b] + self.scale / count[b]
            if fits_a and fits_b:
                parent[b], heaviest[a] = a, weight
                count[a] += count[b]
            else:
                done[a], done[b] = not fits_a, not fits_b
        return parent, heaviest, done

    def _relabel(
        self, segments: Indices, root: Ints, inner: npt.NDArray[np.float64], finished: npt.NDArray[np.bool_]
    ) -> None:
        sizes = np.bincount(root, self.sizes[segments], len(segments)).astype(np.int64)
        self.sizes[segments] = sizes[root]
        self.inner[segments], self.finished[segments] = inner[root], finished[root]
        self._rename(segments, segments[root])

    def join_small(self, ends: Indices, min_size: int) -> None:
        """Join each segment of fewer than `min_size` pixels to the neighbor behind its lightest edge."""
        a, b = self.labels[ends[0]], self.labels[ends[1]]
        small = self.sizes < min_size
        open_ = (a != b) & (small[a] | small[b])
        segments, compact, _ = self._lightest(a[open_], b[open_])
        parent, sizes = list(range(len(segments))), self.sizes[segments].tolist()
        for a, b in compact.T.tolist():
            while parent[a] != a:
                parent[a] = a = parent[parent[a]]
            while parent[b] != b:
                parent[b] = b = parent[parent[b]]
            if a != b and min(sizes[a], sizes[b]) < min_size:
                parent[b] = a
                sizes[a] += sizes[b]
        if len(segments):
            self._rename(segments, segments[_roots(np.array(parent))])

    def _rename(self, segments: Indices, names: Indices) -> None:
        new = np.arange(len(self.labels), dtype=np.int32)
        new[segments] = names
        self.labels = new[self.labels]


def _groups(ends: Indices, count: int) -> Ints:
    """Number of the connected group of each of `count` segments."""
    graph = coo_array((np.ones(ends.shape[1], np.int8), (ends[0], ends[1])), (count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _raise_to_heaviest(inner: npt.NDArray[np.float64], ends: Indices, weights: Floats, target: Ints) -> None:
    """Note at each group's first segment the heaviest edge of the group's spanning tree."""
    count = len(inner)
    ranks = np.arange(1, len(weights) + 1, dtype=np.float64)  # distinct and above 0, which would be no edge
    tree = minimum_spanning_tree(coo_array((ranks, (ends[0], ends[1])), (count, count)).tocsr()).tocoo()
    np.maximum.at(inner, target[tree.row], weights[tree.data.astype(np.int64) - 1])


def _roots(parent: Ints) -> Ints:
    """Follow every segment to the one that it was joined to in the end."""
    while True:
        further = parent[parent]
        if (further == parent).all():
            return parent
        parent = further
