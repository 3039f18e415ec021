"""Images too large for a network, tile by tile: blended probabilities of semantic models, merged boxes of detectors.

Tiles overlap. In an overlap a semantic model's probabilities fade from one tile to the next, so that no seam shows; of
a detector's boxes the duplicates are dropped, and the parts of an object larger than the overlap are joined. Nothing of
the full image's size is held but its pixels, as they were decoded, and of most PNGs not even these: a row of tiles, its
overlap's probabilities, and rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product

import numpy as np
import numpy.typing as npt
from torch import Tensor

from shardlens.pipeline.images.decode import Windowed

STRIDE = 32
"""The largest stride of usual networks."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A window of an image, in pixels."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    def crop(self, image: Windowed) -> npt.NDArray[np.uint8]:
        """(h, w, 3) RGB, its pixels of the upright image."""
        return image.crop(self.top, self.left, self.bottom, self.right)


@dataclass(frozen=True)
class Grid:
    """The tiles of an image of `height` x `width`."""

    height: int
    width: int
    size: int
    """Of a tile's sides; a tile is smaller only where the image, or its last part, is."""
    overlap: int
    """Pixels that neighbors share at least."""
    stride: int = STRIDE
    """Tiles begin at multiples of it, where they are larger, so that pixels fall on the network's grid as they do in the
    full image."""

    @property
    def rows(self) -> list[tuple[int, int]]:
        """Top and bottom of each row of tiles."""
        return self._sides(self.height)

    @property
    def columns(self) -> list[tuple[int, int]]:
        """Left and right of each column of tiles."""
        return self._sides(self.width)

    @property
    def tiles(self) -> list[Tile]:
        """Row by row."""
        return [Tile(top, left, bottom, right) for (top, bottom), (left, right) in product(self.rows, self.columns)]

    def _sides(self, length: int) -> list[tuple[int, int]]:
        """Beginnings and ends of tiles along one side: as few as can be, and none shares much more than it must."""
        if length <= self.size:
            return [(0, length)]
        stride = self.stride if self.size - self.overlap >= self.stride else 1
        step, last = (self.size - self.overlap) // stride, -(-(length - self.size) // stride)
        gaps = -(-last // step)
        begins = [stride * (i * last // gaps) for i in range(gaps)]
        return [(begin, begin + self.size) for begin in begins] + [(stride * last, length)]

    def batches(self, size: int) -> Iterator[list[Tile]]:
        """Tiles in their order, up to `size` neighbors of one shape at a time."""
        for _, alike in groupby(self.tiles, key=lambda tile: tile.shape):
            neighbors = list(alike)
            yield from (neighbors[start : start + size] for start in range(0, len(neighbors), size))


def fade(sides: Sequence[tuple[int, int]], overlap: int) -> list[npt.NDArray[np.float32]]:
    """For each tile along a side the weights of its pixels: they fade over the overlap, and add up to 1 everywhere."""
    length = sides[-1][1]
    plain = []
    for begin, end in sides:
        place = np.arange(begin, end)
        plain.append(np.minimum(np.minimum(place - begin, end - 1 - place) + 1, overlap + 1).astype(np.float64))
    total = np.zeros(length)
    for (begin, end), weights in zip(sides, plain, strict=True):
        total[begin:end] += weights
    return [(w / total[begin:end]).astype(np.float32) for (begin, end), w in zip(sides, plain, strict=True)]


def blend(grid: Grid, probabilities: Iterator[Tensor]) -> Iterator[tuple[Tile, Tensor]]:
    """Blocks of the full image's probabilities, each given once it is complete; together they cover the image.

    Args:
        probabilities: (K, h, w) float of each tile of the grid, in its order.

    Yields:
        A window and its (K, h, w); windows do not overlap.
    """
    rows, columns = grid.rows, grid.columns
    across, down = fade(columns, grid.overlap), fade(rows, grid.overlap)
    tops, lefts = [top for top, _ in rows[1:]] + [grid.height], [left for left, _ in columns[1:]] + [grid.width]
    above: Tensor | None = None  # what the last row of tiles says of the rows that this one shares with it
    below: Tensor | None = None
    for (top, bottom), next_top, falls in zip(rows, tops, down, strict=True):
        before: Tensor | None = None  # what the last tile says of the columns that this one shares with it
        for (left, _), next_left, fades in zip(columns, lefts, across, strict=True):
            current = next(probabilities)
            weighted = current * current.new_tensor(falls)[:, None] * current.new_tensor(fades)
            if before is not None:
                weighted[:, :, : before.shape[2]] += before
            done, before = weighted[:, :, : next_left - left], weighted[:, :, next_left - left :].clone()
            if above is not None:
                done[:, : above.shape[1]] += above[:, :, left:next_left]
            yield Tile(top, left, next_top, next_left), done[:, : next_top - top]
            if below is None:
                below = done.new_empty(len(done), bottom - next_top, grid.width)
            below[:, :, left:next_left] = done[:, next_top - top :]
        above, below = below, None
