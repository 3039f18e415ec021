"""Large PNGs without their pixels: what their chunks say, and rows that are decoded as they are asked for.

Pillow decodes a PNG at once, colors into four bytes a pixel, and to look for an orientation that stands behind the
pixels it decodes them too. What it makes of a few rows is all that is needed here: their bytes go through it as a PNG of their
own, after the row above them, on which their filters build (PNG specification, third edition, 5.3 and 9).
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import numpy.typing as npt
from PIL import Image

from shardlens.pipeline.images.rgb import to_rgb

SIGNATURE = b"\x89PNG\r\n\x1a\n"
ORIGINS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
"""Chunks in which EXIF and XMP are, in newer files and in older ones."""
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
COLORS = (b"PLTE", b"tRNS")
Chunk = tuple[bytes, memoryview]
"""Kind and content."""
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Color type -> samples of a pixel."""
PIECE = 1 << 20
"""Compressed bytes that are taken at once."""
BAND = 1 << 24
"""Decompressed bytes that are decoded at once, or one row."""


def is_png(data: bytes) -> bool:
    """Whether it begins as a PNG."""
    return data.startswith(SIGNATURE)


def exif(image: Image.Image, data: bytes) -> Image.Exif:
    """What an image that is not loaded says of its origin, before its pixels or, if nothing is there, behind them."""
    if "exif" not in image.info:
        before, behind = _around_pixels(data)
        late = [_chunk(kind, content) for kind, content in behind if kind in ORIGINS]
        if late:
            early = [_chunk(kind, content) for kind, content in before if kind in (b"IHDR", *ORIGINS)]
            with suppress(Exception):  # what is damaged behind the pixels says nothing
                return Image.Image.getexif(_opened([*early, *late, _chunk(b"IDAT", b"")]))
    return Image.Image.getexif(image)  # a PNG's own method would load it


def with_end(head: bytes, end: bytes) -> bytes | None:
    """A PNG without pixels, of the chunks that tell its origin in the last bytes of a file; None if there are none.

    Args:
        head: first bytes of the file, up to its pixels at least.
        end: last bytes of the file, cut anywhere: a chunk there is known by its checksum.
    """
    if not is_png(head):
        return None
    late = []
    for kind in re.finditer(rb"|".join(ORIGINS), end):
        length = int.from_bytes(end[max(0, kind.start() - 4) : kind.start()], "big")
        whole = _chunk(kind.group(), end[kind.end() : kind.end() + length])
        if end[max(0, kind.start() - 4) : kind.end() + length + 4] == whole:
            late.append(whole)
    if not late:
        return None
    before = [_chunk(kind, content) for kind, content in _around_pixels(head)[0]]
    return b"".join([SIGNATURE, *before, _chunk(b"IDAT", b""), *late, _chunk(b"IEND", b"")])


def without_texts(data: bytes) -> bytes | None:
    """The PNG without its texts, which Pillow refuses where they are large; None if it has none, or is no PNG."""
    if not is_png(data):
        return None
    chunks = list(_chunks(data))
    if not any(kind in TEXTS for kind, _ in chunks):
        return None
    kept = [_chunk(kind, content) for kind, content in chunks if kind not in TEXTS]
    return b"".join([SIGNATURE, *kept, _chunk(b"IEND", b"")])


def has_plain_rows(data: bytes) -> bool:
    """Whether `Rows` can read it: one picture of eight bits a sample, its rows in their order."""
    before = dict(_around_pixels(data)[0])
    depth, _, _, _, interlaced = before[b"IHDR"][8:13]
    return depth == 8 and not interlaced and b"acTL" not in before


class Rows:
    """A PNG's rows, decoded from top to bottom as they are asked for; only the last ones asked for are held."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        before = _around_pixels(data)[0]
        self._header = bytes(dict(before)[b"IHDR"])
        self.width, self.height = struct.unpack_from(">II", self._header)
        self._row_bytes = self.width * SAMPLES[self._header[9]]
        self._colors = [_chunk(kind, content) for kind, content in before if kind in COLORS]
        self._begin()

    def _begin(self) -> None:
        self._pieces = _pieces(self._data)
        self._inflater = zlib.decompressobj()
        self._above = b""
        """The last row decoded, as it is stored but for its filter."""
        self._top = 0
        self._held: npt.NDArray[np.uint8] = np.empty((0, self.width, 3), dtype=np.uint8)

    def __getitem__(self, rows: slice) -> npt.NDArray[np.uint8]:
        """(h, width, 3) RGB of rows [start, stop), a view; to go back is to decode from the top again.

        Damage raises whatever Pillow and zlib raise.
        """
        top, bottom = rows.start, rows.stop
        if top < self._top:
            self._begin()
        end = self._top + len(self._held)
        if bottom > end:
            kept = self._held[max(top - self._top, 0) :]
            self._top = self.height  # until they are there: who asks after a failure has it begin anew
            self._skip(top - end)
            held = np.empty((bottom - top, self.width, 3), dtype=np.uint8)
            held[: len(kept)] = kept
            for begin, stop in self._bands(len(kept), len(held)):
                held[begin:stop] = self._decoded(stop - begin)
            self._top, self._held = top, held
        return self._held[top - self._top : bottom - self._top]

    def _skip(self, count: int) -> None:
        """Rows that nobody asked for: those below build on them."""
        for begin, stop in self._bands(0, count):
            self._decoded(stop - begin)

    def _bands(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        step = max(1, BAND // self._row_bytes)
        return ((at, min(at + step, end)) for at in range(begin, end, step))

    def _decoded(self, count: int) -> npt.NDArray[np.uint8]:
        """(count, width, 3) RGB of the next rows."""
        above = b"\0" + self._above if self._above else b""
        high = count + bool(above)
        stored = zlib.compress(above + self._inflated(count * (1 + self._row_bytes)), 0)
        header = struct.pack(">II", self.width, high) + self._header[8:]
        band = _opened([_chunk(b"IHDR", header), *self._colors, _chunk(b"IDAT", stored), _chunk(b"IEND", b"")])
        self._above = band.crop((0, high - 1, self.width, high)).tobytes()
        return np.asarray(to_rgb(band.crop((0, high - count, self.width, high))))

    def _inflated(self, size: int) -> bytes:
        inflated = bytearray()
        while len(inflated) < size:
            if self._inflater.eof:
                raise OSError("its pixels end early")
            piece = self._inflater.unconsumed_tail or next(self._pieces, b"")
            part = self._inflater.decompress(piece, size - len(inflated))
            if not piece and not part:
                raise OSError("its pixels end early")
            inflated += part
        return bytes(inflated)


def _around_pixels(data: bytes) -> tuple[list[Chunk], list[Chunk]]:
    """The chunks before the first one of pixels, and those behind it that are no pixels."""
    chunks = list(_chunks(data))
    first = next((at for at, (kind, _) in enumerate(chunks) if kind == b"IDAT"), len(chunks))
    return chunks[:first], [chunk for chunk in chunks[first:] if chunk[0] != b"IDAT"]


def _pieces(data: bytes) -> Iterator[memoryview]:
    """The compressed pixels."""
    for kind, content in _chunks(data):
        if kind == b"IDAT":
            yield from (content[at : at + PIECE] for at in range(0, len(content), PIECE))


def _chunks(data: bytes) -> Iterator[Chunk]:
    """Kind and content of each chunk up to the end, or to the first that is none; the last one's content may be cut."""
    at, view = len(SIGNATURE), memoryview(data)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND" or not kind.isalpha():
            return
        yield kind, view[at + 8 : at + 8 + length]
        at += 12 + length


def _chunk(kind: bytes, content: bytes | memoryview) -> bytes:
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def _opened(chunks: Sequence[bytes]) -> Image.Image:
    return Image.open(io.BytesIO(b"".join([SIGNATURE, *chunks])), formats=("PNG",))
