"""PNGs without their pixels, and by their rows: what Pillow makes of the whole is what is expected."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline import png
from pipeline.decode import DecodePolicy, Opened, decode, opened, postponed
from pipeline.errors import ImageError
from tests import images

POLICY = DecodePolicy()
EXIF = Image.Exif()
EXIF[0x0112] = 6


def coloured(mode: str) -> Image.Image:
    return Image.fromarray(images.picture(100, 70)).convert(mode)


def with_late_chunk(kind: bytes, content: bytes) -> bytes:
    plain = images.encode(images.picture(), "PNG")
    end = plain.index(b"IEND") - 4
    chunk = len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
    return plain[:end] + chunk + plain[end:]


def late_exif() -> bytes:
    return with_late_chunk(b"eXIf", EXIF.tobytes().removeprefix(b"Exif\x00\x00"))


def late_xmp() -> bytes:
    return with_late_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x tiff:Orientation="6">')


PLAIN = {
    "rgb": images.encode(coloured("RGB"), "PNG"),
    "grey": images.encode(coloured("L"), "PNG"),
    "grey with alpha": images.encode(coloured("LA"), "PNG"),
    "alpha": images.encode(coloured("RGBA"), "PNG"),
    "one transparent colour": images.encode(coloured("RGB"), "PNG", transparency=(1, 2, 3)),
    "palette": images.encode(coloured("RGB").quantize(200), "PNG"),
    "palette with alpha": images.encode(coloured("RGB").quantize(200), "PNG", transparency=bytes(range(200))),
}
OTHERS = {
    "sixteen bits": images.sixteen_bit_png(),
    "four bits": images.palette_png_with_alpha(),
    "one bit": images.encode(coloured("1"), "PNG"),
    "animated": images.encode(coloured("RGB"), "PNG", save_all=True, append_images=[coloured("RGB").rotate(90)]),
}


@pytest.fixture(params=[1, 2000, png.BAND], ids=["row", "rows", "whole"])
def _band(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "BAND", request.param)


@pytest.mark.usefixtures("_band")
@pytest.mark.parametrize("data", PLAIN.values(), ids=PLAIN)
def test_rows_are_those_of_the_whole(data: bytes) -> None:
    whole, found = decode(data, POLICY), opened(data, POLICY)
    assert isinstance(found.stored, png.Rows)
    windows = ((0, 0, 30, 70), (0, 3, 30, 40), (20, 0, 50, 70), (70, 0, 90, 9), (99, 0, 100, 1), (0, 0, 100, 70))
    for window in windows:
        assert np.array_equal(found.crop(*window), whole.crop(*window))


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_what_is_not_plain_is_left_to_pillow(data: bytes) -> None:
    found = opened(data, POLICY)
    assert isinstance(found.stored, Image.Image)
    assert np.array_equal(found.crop(0, 0, *found.shape), decode(data, POLICY).pixels)


def test_interlaced_rows_are_left_to_pillow() -> None:
    data = bytearray(PLAIN["rgb"])
    assert png.has_plain_rows(bytes(data))
    data[28] = 1
    assert not png.has_plain_rows(bytes(data))


@pytest.mark.parametrize("data", [late_exif(), late_xmp()], ids=["exif", "xmp"])
def test_an_orientation_behind_the_pixels_is_found_without_them(data: bytes) -> None:
    whole, found, later = decode(data, POLICY), opened(data, POLICY), postponed(data, POLICY)
    assert whole.orientation == found.orientation == later.orientation == 6
    assert later.shape == found.shape == whole.shape == (64, 48)
    assert np.array_equal(found.crop(0, 0, 64, 48), whole.pixels)


@pytest.mark.parametrize("tail", [b"\0" * 64, b"\xff\xff\xff\xffIDAT", b"\0\0\0\4!?!?late" + b"\0" * 4])
def test_what_stands_behind_the_end_does_no_harm(tail: bytes) -> None:
    assert not png.exif(PLAIN["rgb"] + tail)
    assert not png.exif(PLAIN["rgb"][:-12] + tail)


def half_of(data: bytes) -> bytes:
    return data[: len(data) // 2]


def with_a_bad_byte(data: bytes, at: int = 0) -> bytes:
    at = at or data.index(b"IDAT") + 4
    return data[:at] + b"\xff" + data[at + 1 :]


def test_only_the_rows_asked_for_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "BAND", 1)
    monkeypatch.setattr(png, "PIECE", 64)
    assert postponed(with_a_bad_byte(PLAIN["rgb"]), POLICY).shape == (100, 70)
    found = opened(with_a_bad_byte(PLAIN["rgb"], len(PLAIN["rgb"]) - 20), POLICY)
    assert np.array_equal(found.crop(0, 0, 30, 70), decode(PLAIN["rgb"], POLICY).pixels[:30])


@pytest.mark.parametrize("damaged", [half_of(PLAIN["rgb"]), with_a_bad_byte(PLAIN["rgb"])], ids=["short", "flipped"])
def test_damage_is_told_where_the_rows_are_asked_for(damaged: bytes) -> None:
    found = opened(damaged, POLICY)
    assert isinstance(found, Opened)
    with pytest.raises(ImageError, match="PNG of 70x100 is damaged or truncated"):
        found.crop(0, 0, 100, 70)
