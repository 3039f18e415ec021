"""Every network of the zoo at a size that a laptop trains in a second, for the tests that run over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Value = int | float | str | bool


@dataclass(frozen=True)
class Small:
    """How to build a network small, and what the tester is to know of it."""

    options: Mapping[str, Value] = field(default_factory=dict)
    without_gradient: tuple[str, ...] = ()
    """Beginnings of the names of trainable parameters that a step with objects rightly leaves without a gradient."""


SMALL: dict[str, Small] = {
    "efficientdet": Small(
        {"width": 16, "cells": 2, "depth": 1, "image_size": 64, "anchor_scale": 2.0, "score_threshold": 0.001}
    ),
    "fcos_small": Small({"width": 16, "min_size": 64, "score_threshold": 0.001}),
    "fcn32s": Small({"backbone": "vgg16_bn", "width": 4, "head_width": 16}),
    "fcn16s": Small({"backbone": "vgg16_bn", "width": 4, "head_width": 16}),
    "fcn8s": Small({"backbone": "vgg16_bn", "width": 4, "head_width": 16}),
    "segnet": Small({"width": 4}),
    "unet": Small({"depth": 2, "width": 16}),
}
