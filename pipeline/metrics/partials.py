"""A shard's partial on disk: a SHA-256 digest, then named arrays as npz, read without running code."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

DIGEST_BYTES = 32

Arrays = Mapping[str, npt.NDArray[Any]]


def pack(partials: Mapping[str, Arrays]) -> bytes:
    """Serialize the partials of a shard, by task; the same arrays give the same bytes."""
    sink = io.BytesIO()
    named = {f"{task}/{name}": array for task, arrays in sorted(partials.items()) for name, array in arrays.items()}
    np.savez_compressed(sink, **named)  # type: ignore[arg-type]  # the stubs mix the names with allow_pickle
    data = sink.getvalue()
    return hashlib.sha256(data).digest() + data


def unpack(data: bytes) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """Read what `pack` wrote.

    Raises:
        ValueError: the bytes are cut, damaged or something else.
    """
    if hashlib.sha256(data[DIGEST_BYTES:]).digest() != data[:DIGEST_BYTES]:
        raise ValueError(f"{len(data)} bytes that are not a partial, or a damaged one: their digest does not fit")
    partials: dict[str, dict[str, npt.NDArray[Any]]] = {}
    with np.load(io.BytesIO(data[DIGEST_BYTES:]), allow_pickle=False) as file:
        for key in file.files:
            task, _, name = key.partition("/")
            partials.setdefault(task, {})[name] = file[key]
    return partials
