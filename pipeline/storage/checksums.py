"""Checksums of a file's blocks, by which any range of it can be checked without reading all of it."""

from __future__ import annotations

import zlib

BLOCK = 1 << 16
"""Bytes of a block; the last one may be shorter."""
DIGITS = 8


def blocks(data: bytes) -> str:
    """Return the CRC-32 of each block of `data`, eight hexadecimal digits each, one after the other."""
    view = memoryview(data)
    return "".join(f"{zlib.crc32(view[start : start + BLOCK]):08x}" for start in range(0, len(data), BLOCK))


def around(offset: int, length: int, size: int) -> tuple[int, int]:
    """Return the first byte and the end of the blocks that hold a range of a file of `size` bytes."""
    first = offset // BLOCK * BLOCK
    return first, min(size, -(-(offset + length) // BLOCK) * BLOCK)


def intact(data: bytes, first: int, checksums: str) -> bool:
    """Whether `data`, which begins with the block at byte `first` of a file, has that file's `checksums`."""
    start = first // BLOCK * DIGITS
    known = blocks(data)
    return bool(known) and checksums[start : start + len(known)] == known
