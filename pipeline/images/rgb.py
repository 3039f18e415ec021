"""What becomes of images that are not plain 8-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image

from shardlens.pipeline.errors import ImageError

SIXTEEN_BIT = {"I", "I;16", "I;16L", "I;16B", "I;16N"}


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any of Pillow's modes to 8-bit RGB: alpha is dropped, 16 bits keep their upper eight.

    Raises:
        ImageError: its pixels are floats.
    """
    if image.mode in SIXTEEN_BIT:
        upper = np.clip(np.asarray(image).astype(np.int32) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(upper).convert("RGB")
    if image.mode == "F":
        raise ImageError("its pixels are 32-bit floats, whose range no header says: convert it to 8 or 16 bits")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
