"""The grid of tiles, and blending over it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shardlens.pipeline.inference.tiles import STRIDE, Grid, blend, fade


def blended(grid: Grid, maps: Iterator[Tensor]) -> Tensor:
    """The whole image put together; every pixel is given once."""
    whole = torch.full((2, grid.height, grid.width), torch.nan)
    for window, block in blend(grid, maps):
        place = whole[:, window.top : window.bottom, window.left : window.right]
        assert place.isnan().all()
        place.copy_(block)
    assert not whole.isnan().any()
    return whole


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 700), st.integers(1, 200), st.data())
def test_tiles_cover_a_side_and_share_the_overlap(length: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    sides = Grid(length, 1, size, overlap).rows
    assert (sides[0][0], sides[-1][1]) == (0, length)
    assert all(0 < end - begin <= size for begin, end in sides)
    for (begin, end), (next_begin, next_end) in pairwise(sides):
        assert begin < next_begin <= end - overlap
        assert end < next_end
        assert next_begin % STRIDE == 0 or size - overlap < STRIDE
    total = np.zeros(length)
    for (begin, end), weights in zip(sides, fade(sides, overlap), strict=True):
        total[begin:end] += weights
        assert (weights > 0).all()
    assert np.abs(total - 1).max() < 1e-6


def test_no_overlap_is_much_larger_than_it_must_be() -> None:
    sides = Grid(15_000, 20_000, 512, 64).rows
    assert max(end - begin for (_, end), (begin, _) in pairwise(sides)) <= 64 + 32


def test_tiles_begin_where_a_networks_grid_does() -> None:
    assert all(begin % 64 == 0 for begin, _ in Grid(3_000, 1, 500, 100, stride=64).rows)


def test_weights_fade_over_the_overlap() -> None:
    first, second = fade([(0, 8), (5, 12)], 3)
    assert first.tolist() == pytest.approx([1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    assert second.tolist() == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(20, 70), st.floats(0, 0.9), st.integers(0, 2**32))
def test_blending_what_tiles_agree_on_gives_it_back(
    height: int, width: int, size: int, share: float, seed: int
) -> None:
    whole = torch.rand(2, height, width, generator=torch.Generator().manual_seed(seed))
    grid = Grid(height, width, size, int(size * share))
    found = blended(grid, (whole[:, t.top : t.bottom, t.left : t.right] for t in grid.tiles))
    assert (found - whole).abs().max() < 1e-6


def test_a_convolution_in_tiles_is_the_whole_away_from_the_seams() -> None:
    torch.manual_seed(0)
    radius = 3
    net = nn.Sequential(nn.Conv2d(2, 4, 5, padding=2), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).requires_grad_(False)
    image = torch.rand(2, 150, 230)
    grid = Grid(150, 230, 96, 24)
    found = blended(grid, (net(image[None, :, t.top : t.bottom, t.left : t.right])[0] for t in grid.tiles))
    expected = net(image[None])[0]
    far = torch.ones(150, 230, dtype=torch.bool)
    for begin, end in grid.rows:
        far[max(begin - radius, 0) : begin + radius] &= begin == 0
        far[end - radius : end + radius] &= end == 150
    for begin, end in grid.columns:
        far[:, max(begin - radius, 0) : begin + radius] &= begin == 0
        far[:, end - radius : end + radius] &= end == 230
    assert far.float().mean() > 0.6
    assert (found - expected)[:, far].abs().max() < 1e-5
    assert (found - expected)[:, ~far].abs().max() > 1e-3
    assert (found - expected).abs().max() < (expected.max() - expected.min())


def test_a_seam_does_not_show() -> None:
    """Two tiles of different minds: from one to the other in even steps."""
    grid = Grid(32, 96, 64, 32)
    found = blended(grid, iter([torch.zeros(2, 32, 64), torch.ones(2, 32, 64)]))
    steps = found[0, 5].diff()
    assert found[0, 5, :32].max() == 0
    assert found[0, 5, 64:].min() == 1
    assert steps[31:64] == pytest.approx([1 / 33] * 33, abs=1e-6)


def test_batches_are_of_one_shape_and_in_order() -> None:
    grid = Grid(100, 300, 64, 0)
    found = list(grid.batches(3))
    assert [tile for batch in found for tile in batch] == grid.tiles
    assert max(map(len, found)) == 3
    assert all(len({tile.shape for tile in batch}) == 1 for batch in found)
