"""U-Net's border weights by hand, and against a loop over pixels and objects."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial import distance

from shardlens.models.losses.border import border_weights


def test_a_gap_of_three_pixels_by_hand() -> None:
    row = np.array([[1, 1, 0, 0, 0, 2]])
    found = border_weights(row, w0=10, sigma=2)
    # the distances to the two objects always add up to 4: 10 exp(-16 / 8)
    assert found[0].tolist() == pytest.approx([0, 0, *[10 * math.exp(-2)] * 3, 0], rel=1e-6)


@pytest.mark.parametrize("objects", [0, 1])
def test_without_a_second_object_there_is_no_border(objects: int) -> None:
    instances = np.zeros((5, 6), int)
    instances[1:3, 1:3] = objects
    assert not border_weights(instances).any()


@pytest.mark.parametrize("seed", range(4))
def test_weights_equal_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instances = np.zeros((40, 50), np.int32)
    for number in rng.permutation(9)[:6] + 1:  # numbers with gaps, some objects hidden by later ones
        y, x = rng.integers(0, 36), rng.integers(0, 44)
        instances[y : y + rng.integers(1, 12), x : x + rng.integers(1, 12)] = number
    expected = np.zeros(instances.shape)
    pixels = [np.argwhere(instances == number) for number in np.unique(instances[instances > 0])]
    for place in np.argwhere(instances == 0):
        d1, d2 = sorted(distance.cdist([place], there).min() for there in pixels)[:2]
        expected[tuple(place)] = 7 * math.exp(-((d1 + d2) ** 2) / (2 * 3**2))
    found = border_weights(instances, w0=7, sigma=3)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 7 * math.exp(-12.5)


def test_the_map_is_as_large_as_the_image_at_its_edges() -> None:
    instances = np.zeros((4, 60), np.int64)
    instances[:, 0], instances[:, 3] = 1, 2
    found = border_weights(instances, w0=1, sigma=1)
    assert (found[:, 1:3] == np.float32(math.exp(-4.5))).all()
    assert (found[:, 40:] == 0).all()
