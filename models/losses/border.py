"""U-Net's border weights: pixels in narrow gaps between objects weigh more. https://arxiv.org/abs/1505.04597, eq. 2."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

REACH = 5.0
"""Sigmas of d1 + d2 beyond which a weight is 0: exp(-12.5) is 4e-6."""


def border_weights(
    instances_hw: npt.NDArray[np.integer], w0: float = 10.0, sigma: float = 5.0
) -> npt.NDArray[np.float32]:
    """w_0 exp(-(d1 + d2)^2 / (2 sigma^2)), the part of U-Net's weights that comes atop a class's own.

    d1 and d2 are a pixel's distances to the nearest object and to the second nearest. On an object the weight is 0, and
    also where there is no second object.

    Args:
        instances_hw: (H, W), 0 = background, every object a number of its own.
        sigma: in pixels.

    Returns:
        (H, W) float32.
    """
    nearest = np.full((2, *instances_hw.shape), np.inf)
    margin = math.ceil(REACH * sigma)
    windows: Sequence[tuple[slice, ...] | None] = ndimage.find_objects(instances_hw)
    for number, window in enumerate(windows, start=1):
        if window is None:  # no object has this number
            continue
        around = tuple(slice(max(side.start - margin, 0), side.stop + margin) for side in window)
        distance = ndimage.distance_transform_edt(instances_hw[around] != number)
        first, second = nearest[0][around], nearest[1][around]
        np.minimum(second, np.maximum(first, distance), out=second)
        np.minimum(first, distance, out=first)
    both = np.where(instances_hw == 0, nearest.sum(axis=0), np.inf)
    weights = w0 * np.exp(-np.square(both) / (2 * sigma**2))
    return np.where(both <= REACH * sigma, weights, 0).astype(np.float32)
