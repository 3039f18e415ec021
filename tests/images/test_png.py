"""PNGs without their pixels, and by their rows: what Pillow makes of the whole is what is expected."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from shardlens.pipeline.errors import ImageError
from shardlens.pipeline.images import png
from shardlens.pipeline.images.decode import decode, opened, postponed
from shardlens.pipeline.images.policy import DecodePolicy
from tests import drawn_images

POLICY = DecodePolicy()


def colored(mode: str) -> Image.Image:
    return Image.fromarray(drawn_images.picture(100, 70)).convert(mode)


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def with_chunk(kind: bytes, content: bytes, before: bytes = b"IEND", data: bytes = b"") -> bytes:
    plain = data or drawn_images.encode(drawn_images.picture(), "PNG")
    at = plain.index(before) - 4
    return plain[:at] + chunk(kind, content) + plain[at:]


def exif(orientation: int) -> bytes:
    made = Image.Exif()
    made[0x0112] = orientation
    return made.tobytes().removeprefix(b"Exif\x00\x00")


LATE_EXIF = with_chunk(b"eXIf", exif(6))
LATE_XMP = with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x tiff:Orientation="6">')
BOTH_EXIFS = with_chunk(b"eXIf", exif(6), data=with_chunk(b"eXIf", exif(3), before=b"IDAT"))
BAD_TEXT = with_chunk(b"zTXt", b"key\0\7no method")


PLAIN = {
    "rgb": drawn_images.encode(colored("RGB"), "PNG"),
    "gray": drawn_images.encode(colored("L"), "PNG"),
    "gray with alpha": drawn_images.encode(colored("LA"), "PNG"),
    "alpha": drawn_images.encode(colored("RGBA"), "PNG"),
    "one transparent color": drawn_images.encode(colored("RGB"), "PNG", transparency=(1, 2, 3)),
    "palette": drawn_images.encode(colored("RGB").quantize(200), "PNG"),
    "palette with alpha": drawn_images.encode(colored("RGB").quantize(200), "PNG", transparency=bytes(range(200))),
}
OTHERS = {
    "sixteen bits": drawn_images.sixteen_bit_png(),
    "four bits": drawn_images.palette_png_with_alpha(),
    "one bit": drawn_images.encode(colored("1"), "PNG"),
    "animated": drawn_images.encode(colored("RGB"), "PNG", save_all=True, append_images=[colored("RGB").rotate(90)]),
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


@pytest.mark.parametrize(
    ("data", "orientation"),
    [(LATE_EXIF, 6), (LATE_XMP, 6), (BOTH_EXIFS, 3), (BAD_TEXT, 1)],
    ids=["exif", "xmp", "both", "damaged"],
)
def test_an_orientation_behind_the_pixels_is_found_without_them(data: bytes, orientation: int) -> None:
    found, later = opened(data, POLICY), postponed(data, POLICY)
    assert found.orientation == later.orientation == orientation
    if orientation != 1:
        whole = decode(data, POLICY)
        assert whole.orientation == Image.open(io.BytesIO(data)).getexif()[0x0112] == orientation
        assert later.shape == found.shape == whole.shape
        assert np.array_equal(found.crop(0, 0, *found.shape), whole.pixels)


def test_a_palette_behind_the_pixels_is_none() -> None:
    data = with_chunk(b"PLTE", bytes(768), data=PLAIN["palette"])
    assert np.array_equal(opened(data, POLICY).crop(0, 0, 100, 70), decode(data, POLICY).pixels)


def test_a_cut_check_sum_costs_no_pixels() -> None:
    data = PLAIN["rgb"][:-14]
    assert np.array_equal(opened(data, POLICY).crop(0, 0, 100, 70), decode(PLAIN["rgb"], POLICY).pixels)


@pytest.mark.parametrize("tail", [b"\0" * 64, b"\xff\xff\xff\xffIDAT", b"\0\0\0\4!?!?late" + b"\0" * 4])
def test_what_stands_behind_the_end_does_no_harm(tail: bytes) -> None:
    for data in (PLAIN["rgb"] + tail, PLAIN["rgb"][:-12] + tail):
        assert not png.exif(Image.open(io.BytesIO(data)), data)


def whole_by_rows(data: bytes) -> np.ndarray:
    found = opened(data, POLICY)
    return found.crop(0, 0, *found.shape)


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


def ending_early(data: bytes) -> bytes:
    """A few rows, as a stream that has ended, and then a hundred thousand pieces of nothing."""
    rows = zlib.compress(bytes(3 * (1 + 3 * 70)))
    junk = chunk(b"IDAT", b"junk") * 100_000
    return data[: data.index(b"IDAT") - 4] + chunk(b"IDAT", rows) + junk + chunk(b"IEND", b"")


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "damaged",
    [
        half_of(PLAIN["rgb"]),
        with_a_bad_byte(PLAIN["rgb"]),
        ending_early(PLAIN["rgb"]),
        with_chunk(b"PLTE", bytes(900), before=b"IDAT", data=PLAIN["palette"]),
        with_chunk(b"tRNS", b"\0", before=b"IDAT"),
    ],
    ids=["short", "flipped", "early", "palette", "transparency"],
)
def test_damage_is_told_where_the_rows_are_asked_for(damaged: bytes) -> None:
    for _ in range(2):
        with pytest.raises(ImageError, match=r"PNG of \d+x\d+ is damaged or truncated|not an image that can be read"):
            whole_by_rows(damaged)


def test_after_damage_the_rows_before_are_still_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png, "BAND", 1)
    monkeypatch.setattr(png, "PIECE", 64)
    found = opened(with_a_bad_byte(PLAIN["rgb"], len(PLAIN["rgb"]) - 20), POLICY)
    with pytest.raises(ImageError):
        found.crop(0, 0, 100, 70)
    assert np.array_equal(found.crop(0, 0, 9, 70), decode(PLAIN["rgb"], POLICY).pixels[:9])
