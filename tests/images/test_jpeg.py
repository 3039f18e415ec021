"""JPEGs that are odd in their segments: their reason is named, and what is harmless can be accepted."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from shardlens.pipeline.errors import ImageError
from shardlens.pipeline.images import jpeg
from shardlens.pipeline.images.decode import decode, opened
from shardlens.pipeline.images.header import probe
from shardlens.pipeline.images.policy import DecodePolicy
from tests.drawn_images import encode, picture

ACCEPT = DecodePolicy(accept_missing_end=True)
PICTURE = picture(200, 300)
KINDS = {
    "plain": encode(PICTURE),
    "progressive": encode(PICTURE, progressive=True),
    "gray": encode(Image.fromarray(PICTURE).convert("L")),
    "cmyk": encode(Image.fromarray(PICTURE).convert("CMYK")),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_that_lacks_only_its_end_is_accepted_if_asked_for(kind: str, missing: int) -> None:
    data = KINDS[kind]
    assert data.endswith(jpeg.END)
    with pytest.raises(ImageError, match="damaged or truncated"):
        decode(data[:-missing], DecodePolicy())
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(decode(data[:-missing], ACCEPT).pixels, expected)
    assert np.array_equal(opened(data[:-missing], ACCEPT).crop(0, 0, 200, 300), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_jpeg_without_all_of_its_pixels_is_not(kind: str, share: float) -> None:
    data = KINDS[kind]
    with pytest.raises(ImageError, match="damaged or truncated"):
        decode(data[: int(len(data) * share)], ACCEPT)


def test_scans_that_are_missing_altogether_are_noticed() -> None:
    data = KINDS["progressive"]
    last = data.rindex(b"\xff\xda")
    tables = data.rindex(b"\xff\xc4", 0, last)
    with pytest.raises(ImageError, match="damaged or truncated"):
        decode(data[:tables], ACCEPT)


def test_a_jpeg_of_twelve_bits_says_so() -> None:
    data = bytearray(KINDS["plain"])
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(ImageError, match="a JPEG of 12 bits a value, which cannot be read: convert it to 8 bits"):
        probe(bytes(data))


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there again and again, up to `count` scans."""
    data = KINDS["progressive"]
    last = data.rindex(b"\xff\xda")
    own = jpeg.scans(data, 1000)
    return data[:-2] + data[last:-2] * (count - own) + jpeg.END


def test_scans_are_counted_but_not_those_of_a_thumbnail() -> None:
    own = jpeg.scans(KINDS["progressive"], 1000)
    assert 5 <= own <= 12
    assert jpeg.scans(with_scans(60), 1000) == 60
    exif = Image.Exif()
    exif[0x010E] = "x" + (b"\xff\xda" * 200).decode("latin-1")
    assert jpeg.scans(encode(PICTURE, exif=exif, progressive=True), 50) == own


def test_a_progressive_jpeg_of_a_thousand_scans_is_refused_by_its_header() -> None:
    assert decode(with_scans(60), DecodePolicy()).pixels.shape == (200, 300, 3)
    with pytest.raises(ImageError, match="a progressive JPEG of more than 100 scans"):
        decode(with_scans(1000), DecodePolicy())


@pytest.mark.parametrize(
    "data", [b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xc0\x00", b"\xff\xd8\xff\xda\x00\x00" * 9]
)
def test_segments_that_are_cut(data: bytes) -> None:
    assert jpeg.frame(data) is None
    assert jpeg.completed(data) is None
    assert jpeg.scans(data, 3) >= 0
