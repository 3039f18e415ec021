"""Decoding under the policy: every kind of image, and every kind of damage."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from shardlens.pipeline.errors import ConfigError, ImageError
from shardlens.pipeline.images.decode import Decoded, Opened, decode, opened, postponed
from shardlens.pipeline.images.header import Header, probe, read_header
from shardlens.pipeline.images.orientation import mask_to_stored_frame, to_stored_frame
from shardlens.pipeline.images.policy import DecodePolicy
from tests import drawn_images

POLICY = DecodePolicy()


def test_plain_png_is_decoded_exactly() -> None:
    pixels = drawn_images.picture()
    found = decode(drawn_images.encode(pixels, "PNG"), POLICY)
    assert np.array_equal(found.pixels, pixels)
    assert (found.height, found.width, found.orientation) == (48, 64, 1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = Image.fromarray(drawn_images.picture()).convert(mode)
    found = decode(drawn_images.encode(image, "JPEG" if mode in {"CMYK", "YCbCr"} else "PNG"), POLICY)
    assert found.pixels.shape == (48, 64, 3)
    assert found.pixels.dtype == np.uint8


def test_sixteen_bits_keep_their_upper_eight() -> None:
    found = decode(drawn_images.sixteen_bit_png(), POLICY).pixels
    assert (found[0, 0, 0], found[-1, -1, 0]) == (0, 255)
    assert found[24, 0, 0] == pytest.approx(128, abs=2)


def test_palette_with_alpha_keeps_its_colors() -> None:
    assert decode(drawn_images.palette_png_with_alpha(), POLICY).pixels.std() > 10


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"this is a text file, not a picture", "34 bytes of no known image format"),
        (drawn_images.encode(drawn_images.picture())[:900], "damaged or truncated"),
        (drawn_images.forged_jpeg(), r"65500x65500 = 4290 megapixels, more than the cap of 100"),
    ],
    ids=["empty", "text", "truncated", "forged"],
)
def test_bad_images_say_what_was_found(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode(data, POLICY)


def test_a_forged_header_costs_no_memory() -> None:
    data = drawn_images.forged_jpeg()
    tracemalloc.start()
    with pytest.raises(ImageError):
        decode(data, POLICY)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image_and_boxes_come_back(orientation: int) -> None:
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[5:15, 20:50] = 255
    data = drawn_images.rotated_jpeg(stored, orientation)
    found = decode(data, POLICY)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(__import__("io").BytesIO(data))))
    assert np.array_equal(found.pixels, upright)
    rows, columns = np.nonzero(upright[:, :, 0] > 128)
    box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float64)
    assert to_stored_frame(box, found).tolist() == [[20, 5, 50, 15]]
    assert np.array_equal(mask_to_stored_frame(found.pixels[:, :, 0] > 128, found.orientation), stored[:, :, 0] > 128)


@pytest.mark.parametrize(
    "data",
    [
        *(drawn_images.rotated_jpeg(drawn_images.picture(), orientation) for orientation in range(2, 9)),
        drawn_images.encode(drawn_images.picture(), "PNG"),
        drawn_images.encode(drawn_images.picture(), "TIFF"),
        drawn_images.sixteen_bit_png(),
        drawn_images.palette_png_with_alpha(),
    ],
    ids=[*(f"turned{i}" for i in range(2, 9)), "png", "tiff", "sixteen", "palette"],
)
def test_windows_are_those_of_the_whole(data: bytes) -> None:
    whole, found = decode(data, POLICY), opened(data, POLICY)
    assert isinstance(found, Opened)
    assert (found.shape, found.orientation) == (whole.shape, whole.orientation)
    for window in ((0, 0, *whole.shape), (3, 5, 20, 41), (10, 40, 48, 48)):
        assert np.array_equal(found.crop(*window), whole.crop(*window))


def test_windows_of_what_is_damaged() -> None:
    with pytest.raises(ImageError, match="TIFF of 64x48 is damaged or truncated"):
        opened(drawn_images.encode(drawn_images.picture(), "TIFF")[:2000], POLICY)


def test_exif_can_be_left_alone() -> None:
    data = drawn_images.rotated_jpeg(drawn_images.picture(), 6)
    assert decode(data, DecodePolicy(exif=False)).pixels.shape == (48, 64, 3)
    assert decode(data, POLICY).pixels.shape == (64, 48, 3)


def test_probe_reads_a_header_alone() -> None:
    assert probe(drawn_images.encode(drawn_images.picture(480, 640))[:2000]) == (640, 480)
    with pytest.raises(ImageError, match="not an image"):
        probe(b"\x00" * 64)


def test_policy_refuses_a_cap_below_one() -> None:
    with pytest.raises(ConfigError, match="pixel cap 0"):
        DecodePolicy(max_pixels=0)


def test_boxes_of_upright_images_stay() -> None:
    boxes = np.array([[1.5, 2, 3, 4]])
    assert to_stored_frame(boxes, Decoded(np.zeros((8, 8, 3), np.uint8), 1, 8, 8)) is boxes


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 30}], ids=str)
def test_plain_jpegs_are_decoded_as_pillow_does(mode: str, options: dict[str, object]) -> None:
    data = drawn_images.encode(Image.fromarray(drawn_images.picture(61, 83)).convert(mode), "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data, DecodePolicy()).pixels, expected)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_a_truncated_jpeg_is_none(share: float) -> None:
    data = drawn_images.encode(drawn_images.picture(200, 300), "JPEG")
    with pytest.raises(ImageError, match="JPEG of 300x200 is damaged or truncated"):
        decode(data[: int(len(data) * share)], DecodePolicy())


def test_a_jpeg_with_flipped_bytes_is_read_as_pillow_does() -> None:
    data = bytearray(drawn_images.encode(drawn_images.picture(200, 300), "JPEG"))
    data[len(data) // 2 : len(data) // 2 + 20] = b"\x55" * 20
    expected = np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB"))
    np.testing.assert_array_equal(decode(bytes(data), DecodePolicy()).pixels, expected)


def thirds(height: int, width: int) -> tuple[int, int]:
    """A model that looks at a third of the size."""
    return -(-height // 3), -(-width // 3)


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_a_jpeg_is_decoded_no_smaller_than_the_model_takes_it(orientation: int) -> None:
    pixels = drawn_images.picture(240, 360).copy()
    pixels[40:80, 120:300] = 255
    data = drawn_images.rotated_jpeg(pixels, orientation)
    whole = decode(data, POLICY, enough=thirds)
    found = decode(data, DecodePolicy(scale="auto"), enough=thirds)
    assert found.upright == whole.upright == whole.shape
    assert found.shape == tuple(side * 3 // 8 for side in whole.upright)
    assert (found.height, found.width, found.orientation) == (240, 360, orientation)
    small = np.asarray(Image.fromarray(whole.pixels).resize(found.shape[::-1], Image.Resampling.BOX))
    assert np.abs(small.astype(int) - found.pixels).mean() < 3


def test_a_scale_is_only_reduced_to_a_half_or_less() -> None:
    data = drawn_images.encode(drawn_images.picture(99, 200), "JPEG")
    auto = DecodePolicy(scale="auto")
    assert decode(data, auto, enough=lambda h, w: (51, 90)).shape == (99, 200)
    assert decode(data, auto, enough=lambda h, w: (50, 100)).shape == (50, 100)
    assert decode(data, auto, enough=lambda h, w: (9, 9)).shape == (13, 25)
    assert decode(
        drawn_images.encode(drawn_images.picture(99, 200), "PNG"), auto, enough=lambda h, w: (9, 9)
    ).shape == (99, 200)


def test_policy_knows_its_scales() -> None:
    with pytest.raises(ConfigError, match="decode scale 'half': expected auto or full"):
        DecodePolicy(scale="half")


@pytest.mark.parametrize("form", ["TIFF", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_turned_as_pillow_turns_it(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    data = drawn_images.encode(drawn_images.picture(40, 60), form, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    found, windows = decode(data, POLICY), opened(data, POLICY)
    assert np.array_equal(found.pixels, expected)
    assert (found.height, found.width, found.orientation) == (40, 60, orientation)
    assert np.array_equal(windows.crop(0, 0, *windows.shape), expected)
    assert np.array_equal(windows.crop(3, 5, 20, 31), expected[3:20, 5:31])
    assert read_header(data) == Header(60, 40, orientation, deep=False)
    assert (postponed(data, POLICY).height, postponed(data, POLICY).width) == (40, 60)


@pytest.mark.parametrize("form", ["TIFF", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_stored_pixels_of_every_format(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = drawn_images.picture(40, 60)
    data = drawn_images.encode(pixels, form, exif=exif)
    as_stored = DecodePolicy(exif=False)
    assert np.array_equal(decode(data, as_stored).pixels, pixels)
    assert np.array_equal(opened(data, as_stored).crop(3, 5, 20, 31), pixels[3:20, 5:31])


@pytest.mark.parametrize("tag", [0, 9, 255])
def test_an_orientation_out_of_range_is_none(tag: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    data = drawn_images.encode(drawn_images.picture(40, 60), "TIFF", exif=exif)
    assert (decode(data, POLICY).orientation, decode(data, POLICY).pixels.shape) == (1, (40, 60, 3))


def test_a_tiff_with_a_tile_of_a_gigabyte_is_refused_by_its_header() -> None:
    data = bytearray(drawn_images.encode(drawn_images.picture(64, 64), "TIFF"))
    (directory,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, directory)
    tiles = {278: (322, 65536), 284: (323, 16384), 273: (324, None), 279: (325, None)}
    for at in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind, number, value = struct.unpack_from("<HHII", data, at)
        if tag in tiles:
            tag, forged = tiles[tag]
            kind, value = (kind, value) if forged is None else (4, forged)
        struct.pack_into("<HHII", data, at, tag, kind, number, value)
    with pytest.raises(ImageError, match="a TIFF of 64x64 whose tiles are of 65536x16384 pixels"):
        decode(bytes(data), POLICY)


@pytest.mark.parametrize("behind", [False, True])
def test_a_png_with_a_huge_text_is_read_without_it(behind: bool) -> None:
    plain = drawn_images.encode(drawn_images.picture(), "PNG")
    text = b"history\0\0" + zlib.compress(b"x" * 3_000_000)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    at = plain.index(b"IEND") - 4 if behind else 33
    data = plain[:at] + chunk + plain[at:]
    assert np.array_equal(decode(data, POLICY).pixels, drawn_images.picture())
    assert np.array_equal(opened(data, POLICY).crop(0, 0, 48, 64), drawn_images.picture())
    assert probe(data) == (64, 48)
