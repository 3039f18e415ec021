"""Pillow's images of at most 8 bits a value as RGB."""

from __future__ import annotations

from PIL import Image


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any of Pillow's modes of at most 8 bits a value to RGB: alpha is dropped."""
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
