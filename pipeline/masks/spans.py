"""Pixels of a mask as spans of its columns: connected parts and holes are computed on them, without a full image.

The work grows with the spans, not with the pixels, so that a region of an image of hundreds of megapixels costs what
its outline is long. A span [start, end) counts pixels in column-major order, as COCO's RLE does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from shardlens.pipeline.masks import rle as masks
from shardlens.pipeline.masks.rle import Ints, Rle

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spans:
    """N spans of a mask of `height` x `width`, ascending, none across two columns."""

    starts: Ints
    ends: Ints
    own: Ints
    """(N,) how many of a span's pixels the network itself gave the mask; the others were filled in."""
    sums: Floats
    """(N,) the network's probability, summed over these pixels."""
    height: int
    width: int

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int((self.ends - self.starts).sum())

    @property
    def score(self) -> float:
        """Mean probability over the network's own pixels; 0 where there is none."""
        return float(self.sums.sum() / max(int(self.own.sum()), 1))

    def __getitem__(self, chosen: npt.NDArray[np.bool_] | Ints) -> Spans:
        """Those spans alone."""
        starts, ends, own, sums = self.starts[chosen], self.ends[chosen], self.own[chosen], self.sums[chosen]
        return Spans(starts, ends, own, sums, self.height, self.width)


class Canvas:
    """Gathers the blocks of a class map into the spans of each class, in any order of the blocks."""

    def __init__(self, height: int, width: int, background: bool = True) -> None:
        self.height, self.width, self.background = height, width, background
        self._labels: list[npt.NDArray[np.integer]] = []
        self._starts: list[Ints] = []
        self._sizes: list[npt.NDArray[np.int32]] = []
        self._sums: list[Floats] = []

    def add(
        self,
        classes_hw: npt.NDArray[np.integer],
        probability_hw: npt.NDArray[np.floating],
        top: int = 0,
        left: int = 0,
    ) -> None:
        """Take a block whose top left corner lies at (`left`, `top`); label 0 is the background, where there is one.

        Args:
            classes_hw: (h, w) labels.
            probability_hw: (h, w) of each pixel's label.
        """
        high = classes_hw.shape[0]
        labels = masks.column_major(classes_hw)
        edges = np.empty(labels.size + 1, dtype=bool)
        np.not_equal(labels[1:], labels[:-1], out=edges[1:-1])
        edges[::high] = True
        cuts = np.flatnonzero(edges)
        sums = np.add.reduceat(masks.column_major(probability_hw), cuts[:-1], dtype=np.float64)
        values = labels[cuts[:-1]]
        seen = np.flatnonzero(values) if self.background else np.arange(values.size)
        starts = cuts[seen]
        column = starts // high
        self._labels.append(values[seen])
        self._starts.append(starts + column * (self.height - high) + (left * self.height + top))
        self._sizes.append((cuts[seen + 1] - starts).astype(np.int32))
        self._sums.append(sums[seen])

    def spans(self) -> dict[int, Spans]:
        """The spans of each label that is there, by label."""
        if not self._labels:
            return {}
        labels, starts = np.concatenate(self._labels), np.concatenate(self._starts)
        sizes, sums = np.concatenate(self._sizes), np.concatenate(self._sums)
        order = np.argsort(starts, kind="stable") if len(self._labels) > 1 else np.arange(starts.size)
        by_label = {}
        for label in np.flatnonzero(np.bincount(labels)).tolist():
            own = order[labels[order] == label]
            size = sizes[own].astype(np.int64)
            spans = Spans(starts[own], starts[own] + size, size, sums[own], self.height, self.width)
            by_label[label] = _joined(spans) if len(self._labels) > 1 else spans
        return by_label


def to_rle(spans: Spans) -> Rle:
    """Encode the mask."""
    return masks.from_runs(spans.starts, spans.ends, spans.height, spans.width)


def moved(rle: Rle, top: int, left: int, height: int, width: int) -> Rle:
    """The mask of a window whose top left corner lies at (`left`, `top`) as a mask of an image of `height` x `width`."""
    edges = np.cumsum(masks.run_lengths(rle))
    ends = edges[1::2]
    cut = in_columns(edges[0::2][: ends.size], ends, rle.height, rle.width)
    shift = cut.starts // rle.height * (height - rle.height) + left * height + top
    return masks.from_runs(cut.starts + shift, cut.ends + shift, height, width)


def parts(spans: Spans, diagonal: bool = True) -> Ints:
    """(N,) number of each span's connected part, 0, 1, ... by their first spans; `diagonal` = corners connect too."""
    height, count = spans.height, len(spans.starts)
    next_column = (spans.starts // height + 1) * height
    reach = 1 if diagonal else 0
    first = np.searchsorted(spans.ends, np.maximum(spans.starts + height - reach, next_column), side="right")
    last = np.searchsorted(spans.starts, np.minimum(spans.ends + height + reach, next_column + height), side="left")
    touching = np.maximum(last - first, 0)
    own = np.repeat(np.arange(count), touching)
    other = np.arange(own.size) - np.repeat(np.cumsum(touching) - touching, touching) + np.repeat(first, touching)
    graph = coo_array((np.ones(own.size, dtype=bool), (own, other)), shape=(count, count))
    components = connected_components(graph, directed=False)[1]
    _, firsts, numbers = np.unique(components, return_index=True, return_inverse=True)
    place: Ints = np.argsort(np.argsort(firsts))[numbers]
    return place


def filled(spans: Spans, taken: Sequence[Spans] = ()) -> Spans:
    """The mask with its holes filled: background that it encloses (4 neighbors), but for pixels of `taken` masks."""
    outside = _complement([spans])
    if not outside.starts.size:
        return spans
    number = parts(outside, diagonal=False)
    height = spans.height
    column = outside.starts // height
    rim = (column == 0) | (column == spans.width - 1) | (outside.starts % height == 0) | (outside.ends % height == 0)
    open_ = np.bincount(number, weights=rim) > 0
    return _union(spans, _intersection(outside[~open_[number]], _complement([spans, *taken])))


def _joined(spans: Spans) -> Spans:
    """Spans that touch in one column become one."""
    if not spans.starts.size:
        return spans
    apart = (spans.starts[1:] != spans.ends[:-1]) | (spans.starts[1:] % spans.height == 0)
    firsts = np.append(0, np.flatnonzero(apart) + 1)
    ends = spans.ends[np.append(firsts[1:] - 1, -1)]
    own, sums = (np.add.reduceat(array, firsts) for array in (spans.own, spans.sums))
    return Spans(spans.starts[firsts], ends, own, sums, spans.height, spans.width)


def _union(first: Spans, second: Spans) -> Spans:
    """Two masks without a common pixel as one."""
    starts, ends = np.append(first.starts, second.starts), np.append(first.ends, second.ends)
    own, sums = np.append(first.own, second.own), np.append(first.sums, second.sums)
    both = Spans(starts, ends, own, sums, first.height, first.width)
    return _joined(both[np.argsort(starts, kind="stable")])


def _complement(masks_: Sequence[Spans]) -> Spans:
    """The pixels in none of the masks."""
    height, width = masks_[0].height, masks_[0].width
    order = np.argsort(np.concatenate([mask.starts for mask in masks_]), kind="stable")
    starts = np.concatenate([mask.starts for mask in masks_])[order]
    ends = np.concatenate([mask.ends for mask in masks_])[order]
    return in_columns(np.append(0, ends), np.append(starts, height * width), height, width)


def in_columns(starts: Ints, ends: Ints, height: int, width: int) -> Spans:
    """Spans of any length, cut where a column ends; empty ones are left out."""
    starts, ends = starts[ends > starts], ends[ends > starts]
    first = starts // height
    columns = (ends - 1) // height - first + 1
    own = np.repeat(np.arange(starts.size), columns)
    column = first[own] + np.arange(own.size) - np.repeat(np.cumsum(columns) - columns, columns)
    cut = np.maximum(starts[own], column * height), np.minimum(ends[own], (column + 1) * height)
    return Spans(*cut, np.zeros(own.size, np.int64), np.zeros(own.size), height, width)


def _intersection(first: Spans, second: Spans) -> Spans:
    """The pixels in both masks, none of them the network's own."""
    low = np.searchsorted(second.ends, first.starts, side="right")
    common = np.maximum(np.searchsorted(second.starts, first.ends, side="left") - low, 0)
    own = np.repeat(np.arange(first.starts.size), common)
    other = np.arange(own.size) - np.repeat(np.cumsum(common) - common, common) + np.repeat(low, common)
    cut = np.maximum(first.starts[own], second.starts[other]), np.minimum(first.ends[own], second.ends[other])
    return Spans(*cut, np.zeros(own.size, np.int64), np.zeros(own.size), first.height, first.width)
