"""What the header of an image tells before a pixel is decoded: size, orientation, depth."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from shardlens.pipeline.errors import ImageError
from shardlens.pipeline.images import jpeg, png
from shardlens.pipeline.images.orientation import INVERSE
from shardlens.pipeline.images.policy import DecodePolicy
from shardlens.pipeline.images.values import is_deep

Image.MAX_IMAGE_PIXELS = None  # the policy's cap replaces it: it is checked on the header, before any pixel is decoded

EXIF_ORIENTATION = 0x0112
TIFF_WIDTH, TIFF_HEIGHT = 256, 257
TIFF_STARTS = (b"II*\0", b"MM\0*")
Image.init()
FORMATS = tuple({"JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF"} & set(Image.OPEN))
"""Formats whose header tells the size before a pixel is decoded; others (ICO, EPS) would decode, or start programs."""
MAX_SCANS = 100
"""Of a progressive JPEG; encoders write 10 or so, and each scan takes the time of an image."""
MAX_TILE = 1 << 24
"""Pixels of a TIFF's tile that is larger than the image itself."""
TILE_WIDTH, TILE_HEIGHT, BITS, SAMPLES, SAMPLE_FORMAT = 322, 323, 258, 277, 339
NUMBERS = {1: "unsigned integers", 2: "signed integers", 3: "floats"}
"""TIFF's SampleFormat."""


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
        return Header(width, height, orientation_of(image, data), is_deep(image))


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
    except Exception as error:  # noqa: BLE001 - decoders raise many kinds of errors for damaged files
        plain = png.without_texts(data)
        if plain is not None:
            return open_image(plain)
        raise ImageError(_why_unreadable(data, error)) from None


def _why_unreadable(data: bytes, error: Exception) -> str:
    """What is known of a file that Pillow cannot open."""
    frame = jpeg.frame(data) if jpeg.is_jpeg(data) else None
    if frame is not None and (frame.bits != 8 or frame.marker in jpeg.LOSSLESS):
        kind = "lossless JPEG" if frame.marker in jpeg.LOSSLESS else "JPEG"
        return f"a {kind} of {frame.bits} bits a value, which cannot be read: convert it to 8 bits, or to PNG or TIFF"
    if data[:4] in TIFF_STARTS and (pixels := _tiff_pixels(data)):
        return f"a TIFF of {pixels} a pixel, which cannot be read: convert it to integers of 8 or 16 bits"
    reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
    return f"not an image that can be read{reason}: {len(data)} bytes of no known image format"


def _tiff_pixels(data: bytes) -> str:
    """What a TIFF's header says of a pixel; empty where it is damaged."""
    try:
        tags = ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        bits, form = tags.get(BITS, (1,)), tags.get(SAMPLE_FORMAT, (1,))
        return f"{tags.get(SAMPLES, 1)} x {bits[0]}-bit {NUMBERS[form[0]]}"
    except Exception:  # noqa: BLE001 - as above
        return ""


def open_checked(data: bytes, policy: DecodePolicy) -> Image.Image:
    """Read the header and check that the image may be decoded.

    Raises:
        ImageError: it is empty, no image, or larger than the policy's cap, or forged.
    """
    image = open_image(data)
    width, height = stored_size(image)
    if width * height > policy.max_pixels:
        raise ImageError(
            f"its header says {width}x{height} = {width * height / 1e6:.0f} megapixels, more than the cap of "
            f"{policy.max_pixels / 1e6:.0f}: raise --max-pixels if it is genuine"
        )
    _check_unfolding(image, data)
    return image


def _check_unfolding(image: Image.Image, data: bytes) -> None:
    """Refuse small files whose decoding takes far more memory or time than their pixels do."""
    width, height = stored_size(image)
    if isinstance(image, TiffImageFile):
        wide, high = (int(image.tag_v2.get(tag, 0)) for tag in (TILE_WIDTH, TILE_HEIGHT))
        if wide * high > max(MAX_TILE, 4 * width * height):
            raise ImageError(
                f"a TIFF of {width}x{height} whose tiles are of {wide}x{high} pixels: it is damaged, or forged"
            )
    elif image.info.get("progressive") and (scans := jpeg.scans(data, MAX_SCANS)) > MAX_SCANS:
        raise ImageError(f"a progressive JPEG of more than {scans - 1} scans: it is damaged, or forged")


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
