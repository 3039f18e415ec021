"""Darknet's .weights: a header, then every convolution's float32 values, in the order of the .cfg.

Per convolution: biases; with batch normalization scales, means and variances; then the filters (out, in / groups,
height, width). https://github.com/pjreddie/darknet/blob/master/src/parser.c (load_weights, save_weights).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from shardlens.models.errors import WeightsError

Shape = tuple[int, ...]
_BOX = 5
"""Values that an anchor has in addition to its classes."""


@dataclass(frozen=True)
class Header:
    """Version of the writer, and how many images the network was trained on."""

    major: int = 0
    minor: int = 2
    revision: int = 0
    seen: int = 0

    @property
    def layout(self) -> str:
        """`struct` format: `seen` has 64 bits since version 0.2."""
        return "<3iq" if self.major * 10 + self.minor >= 2 else "<3ii"


class Slot(NamedTuple):
    """A tensor's place in the file."""

    layer: int
    name: str
    """In the list of layers, as `state_dict` has it."""
    tensor: Tensor


def read(layers: nn.ModuleList, heads: Mapping[int, int], data: bytes, where: str) -> Header:
    """Copy the values in `data` into the convolutions of `layers`; `where` names the file in errors.

    `heads` has the anchors of each convolution, by its layer, that tells anchors and classes.
    """
    header, values, rest = _parse(data, where)
    slots = list(_slots(layers))
    shapes = [tuple(slot.tensor.shape) for slot in slots]
    found = _shapes(slots, heads, len(values))
    if rest or found != shapes:
        raise WeightsError(f"{where}: {_difference(slots, found, len(values), rest)}")
    with torch.no_grad():
        for slot, tensor in zip(slots, _cut(values, shapes), strict=True):
            slot.tensor.copy_(tensor)
    return header


def state(layers: nn.ModuleList, heads: Mapping[int, int], data: bytes, where: str) -> dict[str, Tensor]:
    """The tensors in `data` by their names in `layers`, for transfer.

    The file may be of other classes, whose number follows from its length, or end after any layer, as those of a
    backbone alone do.
    """
    _, values, rest = _parse(data, where)
    slots = list(_slots(layers))
    shapes = _shapes(slots, heads, len(values))
    if rest or shapes is None:
        raise WeightsError(f"{where}: {_difference(slots, shapes, len(values), rest)}")
    return {slot.name: tensor for slot, tensor in zip(slots, _cut(values, shapes), strict=False)}


def write(layers: nn.ModuleList, header: Header) -> bytes:
    """The bytes of a .weights file; `read` of it gives the same values and the same header."""
    head = struct.pack(header.layout, header.major, header.minor, header.revision, header.seen)
    values = (slot.tensor.detach().cpu().float().numpy().astype("<f4").tobytes() for slot in _slots(layers))
    return head + b"".join(values)


def _parse(data: bytes, where: str) -> tuple[Header, Tensor, int]:
    """The header, the floats behind it, and how many bytes are over."""
    header = _header(data, where)
    start = struct.calcsize(header.layout)
    count, rest = divmod(len(data) - start, 4)
    return header, torch.from_numpy(np.frombuffer(data, "<f4", count, start).astype(np.float32)), rest


def _header(data: bytes, where: str) -> Header:
    if len(data) < 20:
        raise WeightsError(
            f"{where}: is {len(data)} bytes, expected a Darknet .weights file (a header of 20 bytes, then floats)"
        )
    start = Header(*struct.unpack_from("<3i", data))
    if not (0 <= start.major < 1000 and 0 <= start.minor < 1000):
        raise WeightsError(
            f"{where}: its version reads {start.major}.{start.minor}, expected 0.1, 0.2 or the like; "
            "is it a Darknet .weights file?"
        )
    return Header(*struct.unpack_from(start.layout, data))


def _slots(layers: Iterable[nn.Module]) -> Iterator[Slot]:
    """The tensors in the file's order."""
    for index, layer in enumerate(layers):
        if not isinstance(layer, nn.Sequential):
            continue
        convolution, norm = layer[0], layer[1]
        assert isinstance(convolution, nn.Conv2d)
        if isinstance(norm, nn.BatchNorm2d):
            for name in ("bias", "weight", "running_mean", "running_var"):
                yield Slot(index, f"{index}.1.{name}", getattr(norm, name))
        elif convolution.bias is not None:
            yield Slot(index, f"{index}.0.bias", convolution.bias)
        yield Slot(index, f"{index}.0.weight", convolution.weight)


def _cut(values: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
    sizes = [math.prod(shape) for shape in shapes]
    return [part.view(shape) for part, shape in zip(torch.split(values, sizes), shapes, strict=True)]


def _shapes(slots: Sequence[Slot], heads: Mapping[int, int], count: int) -> list[Shape] | None:
    """Shapes of the tensors in a file of `count` floats, of these layers with any number of classes; None = no telling.

    A file that ends with a layer has the shapes up to there.
    """
    shapes = [tuple(slot.tensor.shape) for slot in slots]
    variable = {i: shapes[i][0] // heads[slot.layer] for i, slot in enumerate(slots) if slot.layer in heads}
    fields = next(iter(variable.values()), 0)
    each = sum(math.prod(shapes[i]) // fields for i in variable)
    fixed = sum(math.prod(shape) for i, shape in enumerate(shapes) if i not in variable)
    theirs, rest = divmod(count - fixed, each) if each else (fields, count - fixed)
    if not rest and theirs > _BOX:
        return [(s[0] // fields * theirs, *s[1:]) if i in variable else s for i, s in enumerate(shapes)]
    ends = np.cumsum([math.prod(shape) for shape in shapes]).tolist()
    last = ends.index(count) if count in ends else -1
    ends_with_layer = 0 <= last < len(slots) - 1 and slots[last].layer != slots[last + 1].layer
    return shapes[: last + 1] if ends_with_layer else None


def _difference(slots: Sequence[Slot], found: Sequence[Shape] | None, count: int, rest: int) -> str:
    """What is wrong with a file of `count` floats and `rest` bytes, and where: the first layer that differs or is missing.

    `found` are the shapes that its length tells.
    """
    expected = sum(slot.tensor.numel() for slot in slots)
    text = f"holds {count} floats{f' and {rest} bytes' if rest else ''}, the .cfg needs {expected}"
    text += f": {count - expected} too many" if count >= expected else f": {expected - count} missing"
    for slot, shape in zip(slots, found or (), strict=False):
        own = tuple(slot.tensor.shape)
        if shape != own:
            return f"{text}; layer {slot.layer} would be {shape} there and is {own} here: is it of other classes?"
    if count < expected:
        ends = np.cumsum([slot.tensor.numel() for slot in slots])
        first = slots[int(np.searchsorted(ends, count, side="right"))]
        text += f", from layer {first.layer} {tuple(first.tensor.shape)} on"
    return f"{text}; is it the .weights of another .cfg?"
