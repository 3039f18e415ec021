"""Graph-based segmentation: neighbouring pixels join as long as what parts them is small beside what varies within.

Felzenszwalb and Huttenlocher: https://doi.org/10.1023/B:VISI.0000022288.19776.77
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
_SMOOTHING = 0.8
_CHUNKS = 48
_STEPS = 128


def segment(image: Floats, scale: float, min_size: int) -> Ints:
    """Segments of an image as a map (H, W) int64 of numbers from 0.

    The method takes the edges of the pixel grid (eight neighbours) from light to heavy, and joins two segments if the
    edge weighs at most Int(C) + scale / |C| for both, Int(C) being the heaviest edge in C's spanning tree.

    Args:
        image: (H, W, C), of about 0 to 255.
        scale: the paper's k; larger gives larger segments.
        min_size: pixels; smaller segments are joined to a neighbour in the end.
    """
    smooth = gaussian_filter(image, (_SMOOTHING, _SMOOTHING, 0))
    ends, steps = _grid_edges(smooth)
    order = np.argsort(steps, kind="stable")
    ends, weights = ends[:, order], steps[order].astype(np.float32) / np.float32(_STEPS)
    height, width = image.shape[:2]
    forest = _Forest(height * width, scale)
    for part in np.array_split(np.arange(len(weights)), _CHUNKS):
        forest.join(ends[:, part], weights[part])
    forest.join_small(ends, min_size)
    return np.unique(forest.labels, return_inverse=True)[1].reshape(height, width)


def _grid_edges(image: Floats) -> tuple[Ints, npt.NDArray[np.uint16]]:
    """Both ends (2, E) of each edge between neighbours, as flat indices, and how far their colours lie apart (E,) uint16.

    The distances are whole numbers of 1 / `_STEPS`, for which sorting takes a tenth of the time.
    """
    height, width = image.shape[:2]
    number = np.arange(height * width).reshape(height, width)
    pairs = (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1], np.s_[1:]),
        (np.s_[:-1, :-1], np.s_[1:, 1:]),
        (np.s_[:-1, 1:], np.s_[1:, :-1]),
    )
    ends = [np.stack([number[a].ravel(), number[b].ravel()]) for a, b in pairs]
    weights = [np.sqrt(np.square(image[a] - image[b]).sum(-1)).ravel() for a, b in pairs]
    return np.concatenate(ends, axis=1), (np.concatenate(weights) * _STEPS).astype(np.uint16)


class _Forest:
    """Segments in the making.

    Edges come in chunks of rising weight, and most of a chunk is settled at once: edges inside a segment and those of
    a finished one are dropped (an edge that is refused finishes the lighter-bound of its two segments, for all later
    edges weigh more), and groups so small that no edge of the chunk can be refused are joined whole.
    """

    def __init__(self, pixels: int, scale: float) -> None:
        self.labels: Ints = np.arange(pixels)
        self.sizes: Ints = np.ones(pixels, np.int64)
        self.inner: npt.NDArray[np.float64] = np.zeros(pixels)
        self.finished = np.zeros(pixels, bool)
        self.scale = scale

    def join(self, ends: Ints, weights: Floats) -> None:
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
        rest = ~whole
        finished = np.zeros(count, bool)
        self._one_by_one(ends[:, rest], weights[rest], target, segments, inner, finished)
        self._relabel(segments, _roots(target), inner, finished)

    def _open_edges(self, ends: Ints, weights: Floats) -> tuple[Ints, Ints, Floats]:
        """The segments in question, and the edges between them that could still join two, the lightest of each pair."""
        ends = self.labels[ends]
        live = (ends[0] != ends[1]) & ~self.finished[ends].any(0)
        ends, weights = np.sort(ends[:, live], axis=0), weights[live]
        _, lightest = np.unique(ends[0] * len(self.labels) + ends[1], return_index=True)
        lightest.sort()
        segments, compact = np.unique(ends[:, lightest], return_inverse=True)
        return segments, compact.reshape(2, -1), weights[lightest]

    def _one_by_one(
        self,
        ends: Ints,
        weights: Floats,
        target: Ints,
        segments: Ints,
        inner: npt.NDArray[np.float64],
        finished: npt.NDArray[np.bool_],
    ) -> None:
        """The method as it stands in the paper; `target`, `inner` and `finished` take what comes of it."""
        parent, heaviest = target.tolist(), inner.tolist()
        sizes = self.sizes[segments].tolist()
        done = finished.tolist()
        for a, b, weight in zip(ends[0].tolist(), ends[1].tolist(), weights.tolist(), strict=True):
            while parent[a] != a:
                parent[a] = a = parent[parent[a]]
            while parent[b] != b:
                parent[b] = b = parent[parent[b]]
            if a == b:
                continue
            fits_a = not done[a] and weight <= heaviest[a] + self.scale / sizes[a]
            fits_b = not done[b] and weight <= heaviest[b] + self.scale / sizes[b]
            if fits_a and fits_b:
                parent[b], heaviest[a] = a, weight
                sizes[a] += sizes[b]
            else:
                done[a], done[b] = not fits_a, not fits_b
        target[:], inner[:], finished[:] = parent, heaviest, done

    def _relabel(
        self, segments: Ints, root: Ints, inner: npt.NDArray[np.float64], finished: npt.NDArray[np.bool_]
    ) -> None:
        sizes = np.bincount(root, self.sizes[segments], len(segments)).astype(np.int64)
        self.sizes[segments] = sizes[root]
        self.inner[segments], self.finished[segments] = inner[root], finished[root]
        new = np.arange(len(self.labels))
        new[segments] = segments[root]
        self.labels = new[self.labels]

    def join_small(self, ends: Ints, min_size: int) -> None:
        """Join each segment of fewer than `min_size` pixels to the neighbour behind its lightest edge."""
        ends = self.labels[ends]
        ends = ends[:, ends[0] != ends[1]]
        ends = np.sort(ends[:, (self.sizes[ends] < min_size).any(0)], axis=0)
        _, lightest = np.unique(ends[0] * len(self.labels) + ends[1], return_index=True)
        lightest.sort()
        segments, compact = np.unique(ends[:, lightest], return_inverse=True)
        parent, sizes = list(range(len(segments))), self.sizes[segments].tolist()
        for a, b in compact.reshape(2, -1).T.tolist():
            while parent[a] != a:
                parent[a] = a = parent[parent[a]]
            while parent[b] != b:
                parent[b] = b = parent[parent[b]]
            if a != b and min(sizes[a], sizes[b]) < min_size:
                parent[b] = a
                sizes[a] += sizes[b]
        if len(segments):
            new = np.arange(len(self.labels))
            new[segments] = segments[_roots(np.array(parent))]
            self.labels = new[self.labels]


def _groups(ends: Ints, count: int) -> Ints:
    """Number of the connected group of each of `count` segments."""
    graph = coo_array((np.ones(ends.shape[1], np.int8), (ends[0], ends[1])), (count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _raise_to_heaviest(inner: npt.NDArray[np.float64], ends: Ints, weights: Floats, target: Ints) -> None:
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
