"""Darknet's .weights: a header, then every convolution's float32 values, in the order of the .cfg.

Per convolution: biases; with batch normalisation scales, means and variances; then the filters (out, in / groups,
height, width). https://github.com/pjreddie/darknet/blob/master/src/parser.c (load_weights, save_weights).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.errors import WeightsError


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


def read(layers: nn.ModuleList, data: bytes, where: str) -> Header:
    """Copy the values in `data` into the convolutions of `layers`; `where` names the file in errors."""
    header = _header(data, where)
    found, rest = divmod(len(data) - struct.calcsize(header.layout), 4)
    slots = list(_slots(layers))
    expected = sum(tensor.numel() for _, tensor in slots)
    if found != expected or rest:
        raise WeightsError(f"{where}: {_difference(slots, found, expected, rest)}; is it the .weights of another .cfg?")
    values = torch.from_numpy(np.frombuffer(data, "<f4", offset=struct.calcsize(header.layout)).astype(np.float32))
    start = 0
    with torch.no_grad():
        for _, tensor in slots:
            tensor.copy_(values[start : start + tensor.numel()].view(tensor.shape))
            start += tensor.numel()
    return header


def write(layers: nn.ModuleList, header: Header) -> bytes:
    """The bytes of a .weights file; `read` of it gives the same values and the same header."""
    head = struct.pack(header.layout, header.major, header.minor, header.revision, header.seen)
    values = (tensor.detach().cpu().float().numpy().astype("<f4").tobytes() for _, tensor in _slots(layers))
    return head + b"".join(values)


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


def _slots(layers: Iterable[nn.Module]) -> Iterator[tuple[int, Tensor]]:
    """(layer number, tensor) in the file's order."""
    for index, layer in enumerate(layers):
        if not isinstance(layer, nn.Sequential):
            continue
        convolution, norm = layer[0], layer[1]
        assert isinstance(convolution, nn.Conv2d)
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            yield from ((index, t) for t in (norm.bias, norm.weight, norm.running_mean, norm.running_var))
        elif convolution.bias is not None:
            yield index, convolution.bias
        yield index, convolution.weight


def _difference(slots: list[tuple[int, Tensor]], found: int, expected: int, rest: int) -> str:
    """What is wrong with a file of `found` floats and `rest` bytes, and where the values run out."""
    text = f"holds {found} floats{f' and {rest} bytes' if rest else ''}, the .cfg needs {expected}"
    if found >= expected:
        return f"{text}: {found - expected} too many"
    ends = np.cumsum([tensor.numel() for _, tensor in slots])
    layer = slots[int(np.searchsorted(ends, found, side="right"))][0]
    return f"{text}: {expected - found} missing, from layer {layer} on"
