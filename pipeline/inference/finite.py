"""Values inside a detector that are not finite: its thresholds drop them, and the image would seem to be empty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Watched = tuple[tuple[str, nn.Module], ...]
_BACKBONE = "backbone."


def watched(model: nn.Module) -> Watched:
    """The layers to look at, by name: those with a bias, of the heads where there is a backbone.

    What is not finite stays so on its way to the heads, whose last layers have a bias in all detectors.
    """
    named = [
        (name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and m.bias is not None
    ]
    heads = [(name, module) for name, module in named if not name.startswith(_BACKBONE)]
    return tuple(heads or named)


@contextmanager
def all_finite(layers: Watched) -> Iterator[None]:
    """A forward pass in which every output of `layers` has to be finite.

    Raises:
        FloatingPointError: one was not; the first such layer is named.
    """
    seen: list[tuple[str, Tensor]] = []

    def look(name: str, output: Tensor) -> None:
        if output.numel():
            least, most = torch.aminmax(output.detach())
            seen.append((name, least.isfinite() & most.isfinite()))

    handles = [module.register_forward_hook(lambda _, __, out, name=name: look(name, out)) for name, module in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    _check(seen)


def _check(seen: Sequence[tuple[str, Tensor]]) -> None:
    if not seen or bool(torch.stack([finite for _, finite in seen]).all()):
        return
    name = next(name for name, finite in seen if not finite)
    raise FloatingPointError(f"the model computed values that are not finite numbers (first seen in layer {name})")
