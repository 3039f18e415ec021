"""Selective search: regions that may be objects, from segments joined step by step to their most similar neighbors.

https://doi.org/10.1007/s11263-013-0620-5
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects, gaussian_filter

from shardlens.models.detection.color_spaces import hsv, lab
from shardlens.models.detection.graph_segmentation import NEIGHBORS, Floats, Ints, pixel_grid, segment

_COLOR_BINS, _TEXTURE_BINS, _DIRECTIONS = 25, 10, 8


@dataclass(frozen=True)
class SearchRule:
    """Over which starts the search runs: every color space with every scale and every set of similarities."""

    spaces: tuple[str, ...] = ("hsv", "lab")
    scales: tuple[float, ...] = (50.0, 100.0)
    """The segmentation's k, and its smallest segment in pixels."""
    similarities: tuple[str, ...] = ("color+texture+size+fill", "texture+size+fill")
    limit: int = 2000
    """Boxes at most."""


FAST = SearchRule()
"""The paper's fast mode: eight runs."""
SINGLE = SearchRule(spaces=("hsv",), scales=(50.0,), similarities=("color+texture+size+fill",))


def selective_search(image: npt.NDArray[np.uint8], rule: SearchRule = FAST) -> Floats:
    """Boxes (P, 4) xyxy float32 of an image (H, W, 3) RGB, without doubles, the likeliest objects first.

    They are ordered as in the paper, by place in the hierarchy times a random number, the same for the same image.
    """
    random = np.random.default_rng(0)
    found, keys = [], []
    for described in _starts(image, rule):
        for kinds in rule.similarities:
            boxes = _hierarchy(described, kinds.split("+"))[::-1]  # the whole image first
            found.append(boxes)
            keys.append(random.random(len(boxes)) * np.arange(1, len(boxes) + 1))
    ordered = np.concatenate(found)[np.argsort(np.concatenate(keys), kind="stable")]
    _, first = np.unique(ordered, axis=0, return_index=True)
    first.sort()
    return ordered[first[: rule.limit]].astype(np.float32)


@dataclass(frozen=True)
class _Described:
    """Segments of an image, numbered from 0, and what each of the n looks like."""

    segments: Ints
    """(H, W)."""
    pairs: Ints
    """(2, P) segments that touch, corners included, the lower number first."""
    color: Floats
    """(n, 3 * 25) histograms, each of sum 1."""
    texture: Floats
    """(n, 8 * 3 * 10) histograms, each of sum 1."""


def _starts(image: npt.NDArray[np.uint8], rule: SearchRule) -> Iterator[_Described]:
    convert = {"hsv": hsv, "lab": lab}
    for space in rule.spaces:
        colors = convert[space](image)
        shades = _binned(np.moveaxis(colors, 2, 0), 255.0, _COLOR_BINS)
        slopes, grid = _slopes(colors), pixel_grid(colors)
        for scale in rule.scales:
            segments = segment(grid, scale, int(scale))
            texture = _histograms(segments, slopes, _TEXTURE_BINS)
            color = _histograms(segments, shades, _COLOR_BINS)
            yield _Described(segments, _touching(segments), color, texture)


def _hierarchy(described: _Described, kinds: list[str]) -> Ints:
    """Boxes (2 n - 1, 4) xyxy of n segments and of all that they are joined to, in the order of joining."""
    regions = _Regions(described, kinds)
    a, b = described.pairs
    queue = list(zip((-regions.similarity(a, b)).tolist(), a.tolist(), b.tolist(), strict=True))
    heapq.heapify(queue)
    neighbors: list[set[int]] = [set() for _ in range(regions.count)]
    for _, first, second in queue:
        neighbors[first].add(second)
        neighbors[second].add(first)
    alive = set(range(regions.count))
    while queue:
        _, first, second = heapq.heappop(queue)
        if first not in alive or second not in alive:
            continue
        joined = regions.join(first, second)
        alive -= {first, second}
        around = (neighbors[first] | neighbors[second]) & alive
        alive.add(joined)
        neighbors.append(around)
        for other, similarity in zip(around, regions.similarity(joined, list(around)).tolist(), strict=True):
            neighbors[other].add(joined)
            heapq.heappush(queue, (-similarity, joined, other))
    return regions.boxes[: regions.count]


def _touching(segments: Ints) -> Ints:
    """The pairs (2, P) of segments (H, W) that touch, corners included, the lower number first, sorted."""
    count = int(segments.max()) + 1
    codes = []
    for one, other in NEIGHBORS:
        a, b = segments[one], segments[other]
        apart = a != b
        codes.append(np.minimum(a[apart], b[apart]) * count + np.maximum(a[apart], b[apart]))
    return np.stack(np.divmod(np.unique(np.concatenate(codes)), count))


class _Regions:
    """Size, box and histograms of n segments, with room for the n - 1 regions that they are joined to."""

    def __init__(self, described: _Described, kinds: list[str]) -> None:
        segments = described.segments
        self.count = int(segments.max()) + 1
        self.kinds = kinds
        self.pixels = segments.size
        self.sizes = np.zeros(2 * self.count - 1)
        self.sizes[: self.count] = np.bincount(segments.ravel())
        self.boxes = np.zeros((2 * self.count - 1, 4), np.int64)
        self.boxes[: self.count] = _boxes(segments)
        parts = [getattr(described, kind) for kind in ("color", "texture") if kind in kinds]
        self.histograms = np.zeros((2 * self.count - 1, sum(part.shape[1] for part in parts)), np.float32)
        self.histograms[: self.count] = np.concatenate(parts, axis=1)

    def similarity(self, region: int | Ints, others: list[int] | Ints) -> Floats:
        """Sum (N,) of the chosen similarities of a region (or N of them) with N others, each from 0 to 1."""
        total: Floats = np.minimum(self.histograms[others], self.histograms[region]).sum(1)
        sizes = self.sizes[others] + self.sizes[region]
        if "size" in self.kinds:
            total += 1 - sizes / self.pixels
        if "fill" in self.kinds:
            boxes, own = self.boxes[others], self.boxes[region]
            low, high = np.minimum(boxes[:, :2], own[..., :2]), np.maximum(boxes[:, 2:], own[..., 2:])
            total += 1 - ((high - low).prod(1) - sizes) / self.pixels
        return total

    def join(self, a: int, b: int) -> int:
        """Add the region that a and b make together, and return its number."""
        new = self.count
        self.count += 1
        share = self.sizes[a] / (self.sizes[a] + self.sizes[b])
        self.sizes[new] = self.sizes[a] + self.sizes[b]
        self.histograms[new] = share * self.histograms[a] + (1 - share) * self.histograms[b]
        self.boxes[new, :2] = np.minimum(self.boxes[a, :2], self.boxes[b, :2])
        self.boxes[new, 2:] = np.maximum(self.boxes[a, 2:], self.boxes[b, 2:])
        return new


def _boxes(segments: Ints) -> Ints:
    """Box (n, 4) xyxy of each segment, right and lower edges exclusive."""
    rows, columns = (
        np.array([(s.start, s.stop) for s in side]) for side in zip(*find_objects(segments + 1), strict=True)
    )
    return np.stack([columns[:, 0], rows[:, 0], columns[:, 1], rows[:, 1]], axis=1)


def _binned(channels: Floats, high: float | Floats, bins: int) -> npt.NDArray[np.int16]:
    """Number of the bin, of `bins` from 0 to `high`, of each value (C, H, W)."""
    numbers: npt.NDArray[np.int16] = np.clip(channels * (bins / high), 0, bins - 1).astype(np.int16)
    return numbers


def _slopes(colors: Floats) -> npt.NDArray[np.int16]:
    """Binned Gaussian derivatives (sigma 1) in eight directions of each channel, (24, H, W)."""
    down, right = (gaussian_filter(colors, (1, 1, 0), order=order) for order in ((1, 0, 0), (0, 1, 0)))
    angles = np.arange(_DIRECTIONS) * (2 * np.pi / _DIRECTIONS)
    steep = np.concatenate(
        [np.moveaxis(np.float32(np.cos(a)) * right + np.float32(np.sin(a)) * down, 2, 0) for a in angles]
    )
    return _binned(steep, np.maximum(steep.max((1, 2), keepdims=True), 1e-9), _TEXTURE_BINS)


def _histograms(segments: Ints, cells: npt.NDArray[np.int16], bins: int) -> Floats:
    """Histograms over each segment of the bins (C, H, W) of all channels, (n, C * bins), each segment's sum 1."""
    count = int(segments.max()) + 1
    first = segments * bins
    found = [np.bincount((first + cell).ravel(), minlength=count * bins).reshape(count, bins) for cell in cells]
    joined = np.concatenate(found, axis=1).astype(np.float32)
    shares: Floats = joined / joined.sum(1, keepdims=True)
    return shares
