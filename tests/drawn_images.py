"""Images as bytes, in the formats and with the faults that datasets have."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image

Pixels = np.ndarray


def picture(height: int = 48, width: int = 64, seed: int = 0) -> Pixels:
    """(H, W, 3) uint8: a smooth picture, different for each seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def encode(pixels: Pixels | Image.Image, form: str = "JPEG", **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def rotated_jpeg(pixels: Pixels, orientation: int) -> bytes:
    """A JPEG whose stored pixels are `pixels` and whose EXIF says how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(pixels, "JPEG", exif=exif, quality=95)


def forged_jpeg(width: int = 65500, height: int = 65500) -> bytes:
    """A small JPEG whose header claims to be huge."""
    data = bytearray(encode(picture()))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def cmyk_jpeg() -> bytes:
    return encode(Image.fromarray(picture()).convert("CMYK"), "JPEG")


def sixteen_bit_png() -> bytes:
    ramp = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16)
    return encode(Image.fromarray(ramp), "PNG")


def palette_png_with_alpha() -> bytes:
    image = Image.fromarray(picture()).quantize(16)
    return encode(image, "PNG", transparency=bytes(range(0, 160, 10)))
