"""What the header of an image tells before a pixel is decoded: size, orientation, depth."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from shardlens.pipeline.errors import ImageError
from shardlens.pipeline.images import png
from shardlens.pipeline.images.orientation import INVERSE
from shardlens.pipeline.images.policy import DecodePolicy

Image.MAX_IMAGE_PIXELS = None  # the policy's cap replaces it: it is checked on the header, before any pixel is decoded

EXIF_ORIENTATION = 0x0112
TIFF_WIDTH, TIFF_HEIGHT = 256, 257
Image.init()
FORMATS = tuple({"JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF"} & set(Image.OPEN))
"""Formats whose header tells the size before a pixel is decoded; others (ICO, EPS) would decode, or start programs."""
EIGHT_BIT = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
"""Pillow's modes of at most 8 bits a value."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of an image tells."""

    width: int
    """Of the stored image, before its EXIF orientation."""
    height: int
    orientation: int
    """EXIF orientation, 1 to 8."""
    deep: bool
    """Whether a value has more than 8 bits."""


def read_header(data: bytes) -> Header:
    """Read the header of an image; the beginning of a file is often enough.

    Raises:
        ImageError: no header of an image can be read.
    """
    image = open_image(data)
    width, height = stored_size(image)
    with as_image_error(image.format, width, height):
        return Header(width, height, orientation_of(image, data), image.mode not in EIGHT_BIT)


def probe(data: bytes) -> tuple[int, int]:
    """Return (width, height) of the stored image from its header; the beginning of a file is often enough.

    Raises:
        ImageError: no header of an image can be read.
    """
    return stored_size(open_image(data))


def open_image(data: bytes) -> Image.Image:
    """Read the header.

    Raises:
        ImageError: it is empty or no image.
    """
    if not data:
        raise ImageError("the object is empty (0 bytes)")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception:  # noqa: BLE001 - decoders raise many kinds of errors; the first bytes say more than their words
        raise ImageError(f"not an image that can be read: {len(data)} bytes that begin with {data[:16]!r}") from None


def open_checked(data: bytes, policy: DecodePolicy) -> Image.Image:
    """Read the header and check that the image may be decoded.

    Raises:
        ImageError: it is empty, no image, or larger than the policy's cap.
    """
    image = open_image(data)
    width, height = stored_size(image)
    if width * height > policy.max_pixels:
        raise ImageError(
            f"its header says {width}x{height} = {width * height / 1e6:.0f} megapixels, more than the cap of "
            f"{policy.max_pixels / 1e6:.0f}: raise --max-pixels if it is genuine"
        )
    return image


def stored_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) before the EXIF orientation; Pillow gives both the size and the pixels of a TIFF upright."""
    if isinstance(image, TiffImageFile):
        return int(image.tag_v2[TIFF_WIDTH]), int(image.tag_v2[TIFF_HEIGHT])
    return image.size


def orientation_of(image: Image.Image, data: bytes) -> int:
    """EXIF orientation, 1 to 8, of an image that is not loaded, without decoding it."""
    exif = png.exif(image, data) if image.format == "PNG" else image.getexif()
    orientation: int = exif.get(EXIF_ORIENTATION, 1)
    return orientation if orientation in INVERSE else 1


@contextmanager
def as_image_error(form: str | None, width: int, height: int) -> Iterator[None]:
    """Raise whatever a decoder raises as an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise many kinds of errors for damaged files
        raise ImageError(f"{form or 'image'} of {width}x{height} is damaged or truncated ({error})") from None
