"""How each trainable network overfits eight drawn images; test_overfit.py runs them, each in a minute or a few.

The images are 128 pixels wide: discs, squares and triangles, one to five each. Detectors and instance models learn the
boxes (and masks), semantic ones the class masks. To try one alone::

    pytest -m long tests/training/test_overfit.py -k fcos_small -s
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Overfit:
    """Options of the network, and of its training."""

    options: Mapping[str, object] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    """Fields of TrainConfig other than the test's own."""
    objects: int | None = None
    """Draw images with exactly that many shapes; None = one to five."""


OVERFITS: dict[str, Overfit] = {
    "efficientdet": Overfit(
        {"image_size": 128, "width": 32, "cells": 2, "depth": 2, "anchor_scale": 3.0},
        {"epochs": 120, "learning_rate": 3e-3, "batch_size": 4},
    ),
    "fcos_small": Overfit(training={"epochs": 60, "learning_rate": 4e-3, "batch_size": 4}),
    "fcn32s": Overfit(
        {"backbone": "vgg16_bn", "width": 16, "head_width": 64}, {"epochs": 100, "learning_rate": 4e-3, "batch_size": 4}
    ),
    "fcn16s": Overfit(
        {"backbone": "vgg16_bn", "width": 16, "head_width": 64}, {"epochs": 100, "learning_rate": 4e-3, "batch_size": 4}
    ),
    "fcn8s": Overfit(
        {"backbone": "vgg16_bn", "width": 16, "head_width": 64}, {"epochs": 60, "learning_rate": 4e-3, "batch_size": 4}
    ),
    "segnet": Overfit({"width": 8}, {"epochs": 60, "learning_rate": 4e-3, "batch_size": 4}),
    "unet": Overfit({"width": 8, "depth": 3}, {"epochs": 60, "learning_rate": 4e-3, "batch_size": 4}),
}
