"""Every network of the zoo at a size that a laptop trains in a second, for the tests that run over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Value = int | float | str | bool


@dataclass(frozen=True)
class Small:
    """How to build a network small, and what the tester is to know of it."""

    options: Mapping[str, Value] = field(default_factory=dict)
    classes: int = 3
    """Labels, the background's included where the network has one."""
    side: int = 96
    """Length of the sides of its images, about."""
    without_gradient: tuple[str, ...] = ()
    """Beginnings of the names of parameters that a step rightly leaves without a gradient."""
    tolerance: float = 1e-4
    """Of scores and logits: one image against the same image in a batch."""


SMALL: dict[str, Small] = {
    "fcos_small": Small(),
    "unet": Small({"depth": 2, "width": 4}),
}
