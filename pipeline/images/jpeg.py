"""What the segments of a JPEG tell: precision, scans, and whether only the marker of its end is missing.

Format: ITU-T T.81, annex B.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import simplejpeg

START = b"\xff\xd8"
END = b"\xff\xd9"
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers SOF0 to SOF15; the three others begin tables."""
PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
LOSSLESS = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
SCAN = 0xDA
ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a segment."""


@dataclass(frozen=True)
class Frame:
    """The header of a frame."""

    marker: int
    bits: int
    """Of a sample."""
    components: tuple[int, ...]
    """Their ids."""


def is_jpeg(data: bytes) -> bool:
    """Whether it begins as one."""
    return data[:2] == START


def frame(data: bytes) -> Frame | None:
    """The header of the first frame; None if there is none."""
    for marker, content in _segments(data):
        if marker in FRAMES and len(content) >= 6:
            count = content[5]
            return Frame(marker, content[0], tuple(content[6 : 6 + 3 * count : 3]))
    return None


def scans(data: bytes, most: int) -> int:
    """Number of scans, counted up to `most` + 1; a bound is looked at first, so that most files cost one search."""
    if data.count(b"\xff\xda") <= most:
        return data.count(b"\xff\xda")
    count = 0
    for marker, _ in _segments(data):
        count += marker == SCAN
        if count > most:
            break
    return count


def completed(data: bytes) -> bytes | None:
    """The file with its end marker added, if nothing else is missing; None if it has one, or pixels are missing."""
    if not is_jpeg(data) or data.endswith(END) or not _all_scans(data):
        return None
    complete = data + (END[1:] if data.endswith(b"\xff") else END)
    first = frame(data)
    try:
        simplejpeg.decode_jpeg(complete, "CMYK" if first and len(first.components) == 4 else "RGB")
    except ValueError:  # the decoder misses pixels
        return None
    return complete


def _all_scans(data: bytes) -> bool:
    """Whether the last bits of all coefficients have come; in a progressive file complete scans may be missing unnoticed."""
    first = frame(data)
    if first is None or first.marker not in PROGRESSIVE:
        return first is not None
    missing = {(component, at) for component in first.components for at in range(64)}
    for marker, content in _segments(data):
        if marker == SCAN and content:
            count = content[0]
            begin, end, bits = content[1 + 2 * count : 4 + 2 * count]
            if bits & 15 == 0:
                missing -= {(c, at) for c in content[1 : 1 + 2 * count : 2] for at in range(begin, end + 1)}
    return not missing


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment up to the end; what a scan's header is followed by is skipped."""
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            return
        marker = data[at + 1]
        if marker in {0x00, 0xFF} or marker in ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == END[1] or at + 4 > len(data):
            return
        (length,) = struct.unpack_from(">H", data, at + 2)
        yield marker, data[at + 4 : at + 2 + length]
        at += 2 + max(length, 2)
