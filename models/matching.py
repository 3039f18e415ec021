"""Which tensors of a file fit which of a network: names with their prefixes aligned, and equal shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

COUNTER = "num_batches_tracked"
"""A norm's counter, which files of frozen norms lack; it is taken where it is there, and not missed where it isn't."""
DEPTH = 3
"""Leading parts of a name that may differ, as `backbone.body.` of torchvision's detectors, `backbone.0.body.` of DETR."""


@dataclass(frozen=True)
class Match:
    """How a file's tensors lie on a network's."""

    taken: Mapping[str, str]
    """Name in the network -> name in the file."""
    left_out: Mapping[str, str]
    """Name in the file -> why it is not taken."""
    missing: tuple[str, ...]
    """Names in the network that nothing in the file fits: they keep what they have."""


def match(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Match:
    """Lay the tensors of a file (`state`) on those of a network (`own`, its state dict).

    One prefix of the file's names is exchanged for one of the network's, the pair under which most tensors fit: an
    ImageNet classifier's `features.0` becomes `backbone.features.0`, a detector's `backbone.body.conv1` a classifier's
    `conv1`. The names as they are win a tie.
    """
    strip, add = max(_pairs(own, state), key=lambda pair: _score(pair, own, state))
    named = {name: add + name.removeprefix(strip) for name in state if name.startswith(strip)}
    taken = {place: name for name, place in named.items() if _fits(own, place, state[name])}
    left_out = {n: _why(own, named.get(n, n), t) for n, t in state.items() if taken.get(named.get(n, "")) != n}
    missing = tuple(name for name in own if name not in taken and not name.endswith(COUNTER))
    return Match(taken, {n: why for n, why in left_out.items() if not n.endswith(COUNTER)}, missing)


def _fits(own: Mapping[str, Tensor], place: str, tensor: Tensor) -> bool:
    return place in own and own[place].shape == tensor.shape


def _why(own: Mapping[str, Tensor], place: str, tensor: Tensor) -> str:
    if place not in own:
        return "not in the model"
    return f"{tuple(tensor.shape)} in the file, {tuple(own[place].shape)} in the model"


def _pairs(own: Iterable[str], state: Iterable[str]) -> list[tuple[str, str]]:
    """Every (prefix of the file, prefix of the network), those that change least first."""
    pairs = [(strip, add) for strip in _prefixes(state) for add in _prefixes(own)]
    return sorted(pairs, key=lambda pair: (pair[0] != pair[1], len(pair[0]) + len(pair[1])))


def _prefixes(names: Iterable[str]) -> set[str]:
    parts = [name.split(".")[:-1] for name in names]
    return {"".join(f"{part}." for part in path[:depth]) for path in parts for depth in range(DEPTH + 1)}


def _score(pair: tuple[str, str], own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> int:
    """How many tensors fit; those of one dimension, which fit by chance, count for little."""
    strip, add = pair
    fitting = [t for name, t in state.items() if name.startswith(strip) and _fits(own, add + name[len(strip) :], t)]
    return sum(1000 if tensor.ndim > 1 else 1 for tensor in fitting)
