"""What kind of image a file is by its first bytes, whatever its name."""

from __future__ import annotations

import re

HEAD = 132
"""Bytes that suffice: DICOM's mark ends there."""
DECODED = ("JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF", "PNM", "JPEG 2000", "AVIF")
"""Kinds that can be decoded."""

_MARKS = [
    ("JPEG", rb"\xff\xd8\xff"),
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("WebP", rb"RIFF....WEBP"),
    ("BMP", rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00"),
    ("GIF", rb"GIF8[79]a"),
    ("TIFF", rb"II\*\x00|MM\x00\*|II\+\x00|MM\x00\+"),
    ("PNM", rb"P[1-6]\s+(#.*\n)?\s*\d+\s+\d"),
    ("JPEG 2000", rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ("AVIF", rb"....ftyp(avif|avis|mif1.{4,20}avif)"),
    ("HEIF", rb"....ftyp(hei[cfmsx]|hev[cmsx]|mif1|msf1)"),
    ("JPEG XL", rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n"),
    ("DICOM", rb".{128}DICM"),
    ("Photoshop", rb"8BPS"),
    ("OpenEXR", rb"v/1\x01"),
]
_PATTERNS = [(kind, re.compile(pattern, re.DOTALL)) for kind, pattern in _MARKS]


def image_kind(head: bytes) -> str | None:
    """The kind of image that begins with `head`, at least its first `HEAD` bytes; None if it is no image."""
    return next((kind for kind, pattern in _PATTERNS if pattern.match(head)), None)
