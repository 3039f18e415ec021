"""Images of more than 8 bits a value: neither near black nor clipped."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shardlens.pipeline.errors import ConfigError, ImageError
from shardlens.pipeline.images.decode import decode, opened
from shardlens.pipeline.images.header import read_header
from shardlens.pipeline.images.policy import DecodePolicy
from tests.drawn_images import encode, picture

POLICY = DecodePolicy()
RAMP = np.linspace(0, 1, 48 * 64).reshape(48, 64)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png16(samples: np.ndarray) -> bytes:
    """A 16-bit PNG of (H, W, 1 to 4) samples."""
    height, width, count = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[count], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def tiff(samples: np.ndarray, order: str = "<") -> bytes:
    """An uncompressed TIFF (H, W) or (H, W, 3) of any numbers, as scientific software writes it."""
    count = 1 if samples.ndim == 2 else samples.shape[2]
    bits, form = samples.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    pixels = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    extra = b"".join(struct.pack(f"{order}{count}H", *[value] * count) for value in (bits, form))
    at = 8 + len(pixels)
    rows = [(256, samples.shape[1]), (257, samples.shape[0]), (259, 1), (262, 1 if count == 1 else 2), (277, count)]
    tags: list[tuple[int, int, int, Any]] = [(tag, 3, 1, value) for tag, value in rows]
    tags += [(273, 4, 1, 8), (278, 3, 1, samples.shape[0]), (279, 4, 1, len(pixels))]
    places = (bits, form) if count == 1 else (at, at + 2 * count)
    tags += [(tag, 3, count, place) for tag, place in zip((258, 339), places, strict=True)]
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, number)
        + (struct.pack(f"{order}HH", value, 0) if kind == 3 and number == 1 else struct.pack(f"{order}I", value))
        for tag, kind, number, value in sorted(tags)
    )
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, at + len(extra))
    return start + pixels + extra + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def gray(data: bytes, policy: DecodePolicy = POLICY) -> np.ndarray:
    pixels = decode(data, policy).pixels
    assert (pixels[..., 0] == pixels[..., 1]).all()
    return pixels[..., 0].astype(int)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_png_of_fewer_bits_than_its_file_keeps_their_upper_eight(bits: int) -> None:
    values = (RAMP * (2**bits - 1)).astype(np.uint16)
    assert np.array_equal(gray(png16(values[..., None])), values >> (bits - 8))


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("bits", [12, 16])
def test_colors_and_alpha_of_sixteen_bits(channels: int, bits: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (48, 64, channels)).astype(np.uint16)
    expected = values[..., :3] >> (bits - 8) if channels > 2 else np.repeat(values[..., :1], 3, 2) >> (bits - 8)
    assert np.array_equal(decode(png16(values), POLICY).pixels, expected)
    window = opened(png16(values), POLICY).crop(3, 5, 20, 41)
    assert np.array_equal(window, expected[3:20, 5:41])
    assert read_header(png16(values)).deep


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("u2", 0, 4095),
        ("u2", 0, 65535),
        ("u4", 0, 2**32 - 1),
        ("u4", 0, 2**24 - 1),
        ("i2", -32768, 32767),
        ("i2", -1024, 3071),
        ("i4", -5, 100000),
        ("f4", 0, 1),
        ("f4", 0, 255),
        ("f4", -3.5, 7.25),
    ],
)
def test_tiffs_of_all_numbers_use_all_grays(kind: str, low: float, high: float, order: str) -> None:
    values = (low + RAMP * (high - low)).astype(kind)
    if (kind, order) == ("u4", ">"):
        with pytest.raises(ImageError, match="a TIFF of 1 x 32-bit unsigned integers a pixel"):
            decode(tiff(values, order), POLICY)
        return
    found = gray(tiff(values, order))
    assert np.abs(found - RAMP * 255).max() <= 1.01
    assert (found.min(), found.max()) == (0, 255)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_three_times_sixteen_bits(order: str) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (48, 64, 3)).astype(np.uint16)
    assert np.array_equal(decode(tiff(values, order), POLICY).pixels, values >> 4)


def test_compressed_tiffs_too() -> None:
    values = (RAMP * 4095).astype(np.uint16)
    assert np.array_equal(gray(encode(Image.fromarray(values), "TIFF", compression="tiff_deflate")), values >> 4)


def test_the_range_can_be_named() -> None:
    values = (RAMP * 1000).astype(np.uint16)
    data = png16(values[..., None])
    found = gray(data, DecodePolicy(value_range="200:700"))
    assert np.abs(found - np.clip((values - 200.0) / 500 * 255, 0, 255)).max() <= 0.51
    assert np.array_equal(gray(data, DecodePolicy(value_range="0:65535")), values >> 8)
    plain = encode(picture(), "PNG")
    assert np.array_equal(
        decode(plain, DecodePolicy(value_range="0:4095")).pixels, decode(plain, POLICY).pixels
    )  # 8-bit images stay


@pytest.mark.parametrize("text", ["0", "5:5", "9:1", "a:b", "0:nan", "0:1:2"])
def test_a_range_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"value range .*: expected auto or LOW:HIGH, such as 0:4095"):
        DecodePolicy(value_range=text)


def test_floats_that_are_not_finite() -> None:
    values = RAMP.astype(np.float32)
    values[0, 0], values[0, 1], values[0, 2] = np.nan, np.inf, -np.inf
    assert gray(tiff(values))[0, :3].tolist() == [0, 255, 0]
    with pytest.raises(ImageError, match="none is finite"):
        decode(tiff(np.full((4, 4), np.nan, np.float32)), POLICY)


def test_a_constant_image() -> None:
    assert gray(tiff(np.full((4, 4), -7, np.int16))).max() == 0


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (RAMP, "a TIFF of 1 x 64-bit floats a pixel, which cannot be read"),
        (np.zeros((8, 8, 3), np.float32), "a TIFF of 3 x 32-bit floats a pixel"),
    ],
)
def test_what_cannot_be_read_says_what_it_is(samples: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode(tiff(samples), POLICY)


def test_a_pgm_says_its_range_itself() -> None:
    values = (RAMP * 1000).astype(">u2")
    data = b"P5 64 48 4095\n" + values.tobytes()
    assert np.abs(gray(data) - values / 4095 * 255).max() <= 1


def test_a_pfm_does_not() -> None:
    values = (RAMP / RAMP.max()).astype("<f4")
    data = b"Pf\n64 48\n-1.0\n" + values[::-1].tobytes()
    assert np.abs(gray(data) - values * 255).max() <= 1


def test_headers_tell_depth() -> None:
    assert not read_header(encode(picture(), "PNG")).deep
    assert read_header(tiff(RAMP.astype(np.float32))).deep
