"""Images of more than 8 bits a value, such as 12-bit sensors, depth and medical images: scaled to 8 bits.

Few headers tell which values are black and white: a 16-bit file may hold 12-bit data. If the settings name no range,
values from 0 up are taken as of the smallest usual depth that holds the image's largest one (1.0, 8, 10, 12, 14, 16, 24
or 32 bits), and the upper eight bits of that depth are kept; if there are negative values, the image's own range counts.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.TiffImagePlugin import SAMPLEFORMAT, TiffImageFile

from shardlens.pipeline.errors import ImageError

DEPTHS = (8, 10, 12, 14, 16, 24, 32)
BAND = 1 << 22
"""Values that are scaled at once."""
UNSIGNED = 1
"""TIFF's SampleFormat."""
OTHER_END = {"B": "L", "L": "B", "N": "B"}
"""Byte order of 16-bit samples in Pillow's raw modes -> the one whose upper bytes are this one's lower (N is little-endian)."""

Values = npt.NDArray[np.generic]
Range = tuple[float, float]


def is_deep(image: Image.Image) -> bool:
    """Whether a value of an image that is not loaded has more than 8 bits."""
    return image.mode in {"I", "F"} or image.mode.startswith("I;") or _raw_mode(image).find(";16") > 0


def to_eight_bits(image: Image.Image, data: bytes, asked: Range | None) -> Image.Image:
    """Load an image and scale its values to 8 bits (mode L or RGB).

    Args:
        image: opened from `data`, not loaded.
        asked: the values that become 0 and 255; default: by the image's own values.

    Raises:
        ImageError: it has no finite value.
    """
    values = _values(image, data)
    tells_its_range = (
        image.format == "PPM" and image.mode != "F"
    )  # PGM and PPM; Pillow scales them, but not PFM's floats
    limits = asked or ((0.0, 65535.0) if tells_its_range else usual_range(values))
    return Image.fromarray(scaled(values, limits))


def usual_range(values: Values) -> Range:
    """The values that become 0 and 255 where nothing names them."""
    if values.dtype.kind == "f":
        finite = values[np.isfinite(values)]
        if not finite.size:
            raise ImageError("its pixels are floats of which none is finite")
        low, high = float(finite.min()), float(finite.max())
    else:
        low, high = float(values.min()), float(values.max())
    if low < 0:
        return low, high
    if values.dtype.kind == "f" and high <= 1:
        return 0.0, 1.0
    return 0.0, next((2.0**depth - 1 for depth in DEPTHS if high < 2**depth), high)


def scaled(values: Values, limits: Range) -> npt.NDArray[np.uint8]:
    """Scale values (H, W) or (H, W, 3) to 0 to 255; what is not finite becomes 0, what is outside is clipped."""
    out = np.empty(values.shape, np.uint8)
    rows = max(1, BAND // max(1, values[:1].size))
    for top in range(0, len(values), rows):
        out[top : top + rows] = _scaled(values[top : top + rows], *limits)
    return out


def _scaled(values: Values, low: float, high: float) -> npt.NDArray[np.uint8]:
    depth = int(high + 1).bit_length() - 1
    if low == 0 and high == 2**depth - 1 and depth >= 8 and values.dtype.kind in "iu":
        upper: npt.NDArray[np.int64] = np.right_shift(values.astype(np.int64), depth - 8)
        return upper.clip(0, 255).astype(np.uint8)
    numbers: npt.NDArray[np.float64] = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    span = high - low or 1.0
    return np.clip((numbers - low) / span * 255 + 0.5, 0, 255).astype(np.uint8)


def _values(image: Image.Image, data: bytes) -> Values:
    """(H, W) or (H, W, 3) values as they are stored; a TIFF's upright, as Pillow loads it."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;"):
        unsigned = isinstance(image, TiffImageFile) and image.tag_v2.get(SAMPLEFORMAT, (UNSIGNED,))[0] == UNSIGNED
        values: Values = np.asarray(image)
        return values.view(np.uint32) if image.mode == "I" and unsigned else values
    mode = _raw_mode(image)
    if mode.startswith("LA"):  # as four bytes: gray high, gray low, alpha high, alpha low
        four = _loaded(data, "RGBA").astype(np.uint16)
        return four[..., 0] << 8 | four[..., 1]
    upper = np.asarray(image)[..., :3].astype(np.uint16)
    lower = _loaded(data, mode[:-1] + OTHER_END[mode[-1]])[..., :3]
    return upper << 8 | lower


def _loaded(data: bytes, raw_mode: str) -> npt.NDArray[np.uint8]:
    """Pixels as a raw mode of Pillow unpacks them: of 16-bit samples it keeps one byte, the one where the upper would be."""
    image = Image.open(io.BytesIO(data))
    image.tile = [tile._replace(args=_with_mode(tile.args, raw_mode)) for tile in image.tile]
    return np.asarray(image)


def _with_mode(args: tuple[Any, ...] | str | None, raw_mode: str) -> tuple[Any, ...] | str:
    return (raw_mode, *args[1:]) if isinstance(args, tuple) else raw_mode


def _raw_mode(image: Image.Image) -> str:
    """How the samples are stored, in Pillow's words, such as RGB;16B."""
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if tiles else ""
    mode = args[0] if isinstance(args, tuple) and args else args
    return mode if isinstance(mode, str) else ""
