"""Mutations of bytes and of JSON documents, by a random generator."""

from __future__ import annotations

import json
from random import Random
from typing import Any

ODD_BYTES = (
    b"\x00",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"<",
    b"{",
    b"\xed\xa0\x80",
)
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1 << 31, 1 << 63, (1 << 63) - 1, -(1 << 63), 10**30, 1e308, float("nan"), float("inf"),
    "", "0", "x", "\ud800", "../x", "/etc/passwd", "a\0b", [], {}, [[]], [1, [2]], {"a": 1}, [None], "9" * 40, 0.5,
)  # fmt: skip


def mutated(data: bytes, random: Random) -> bytes:
    """Bytes with a few places changed, cut out, doubled, or cut off."""
    made = data
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        at, size = random.randrange(len(made) + 1), random.choice((1, 2, 4, 16, 64))
        odd = random.choice(ODD_BYTES)
        before, middle, after = made[:at], made[at : at + size], made[at + size :]
        ways = (
            before + bytes(byte ^ 1 << random.randrange(8) for byte in middle[:1]) + middle[1:] + after,
            before + random.randbytes(size) + after,
            before + after,
            before + middle + middle + after,
            before + odd + made[at + len(odd) :],
            before if random.random() < 0.3 else made,
        )
        made = random.choice(ways)
    return made


def mutated_json(data: bytes, random: Random) -> bytes:
    """A JSON document with a few values exchanged for odd ones, or mutated bytes."""
    if random.random() < 0.2:
        return mutated(data, random)
    document = json.loads(data)
    for _ in range(random.choice((1, 1, 2, 3))):
        document = _exchanged(document, random)
    return json.dumps(document).encode()


def _exchanged(value: Any, random: Random) -> Any:
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        if random.random() < 0.1:
            return {name: kept for name, kept in value.items() if name != key}
        return {**value, key: _exchanged(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.9:
        at = random.randrange(len(value))
        return [*value[:at], _exchanged(value[at], random), *value[at + 1 :]]
    return random.choice(ODD_VALUES)
