"""From an object's bytes to upright RGB pixels, under a policy that the run records."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from pipeline.errors import ConfigError, ImageError

if TYPE_CHECKING:  # torch takes seconds to import, and most who decode do without
    from pipeline.upload import Uploaded

Image.MAX_IMAGE_PIXELS = None  # the policy's cap stands in for it: checked on the header, before any pixel is made

Pixel = TypeVar("Pixel", bound=np.generic)

EXIF_ORIENTATION = 0x0112
Image.init()
FORMATS = tuple({"JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF"} & set(Image.OPEN))
"""Formats whose header tells the size before a pixel is made; others (ICO, EPS) would decode, or start programs."""
DECODE_SCALES = ("auto", "full")
SIXTEEN_BIT = {"I", "I;16", "I;16L", "I;16B", "I;16N"}
UPRIGHT: dict[int, Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]] = {
    1: lambda pixels: pixels,
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: np.swapaxes(pixels, 0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.swapaxes(np.rot90(pixels, 2), 0, 1),
    8: np.rot90,
}
"""EXIF orientation -> what turns the stored image's (height, width, 3) upright (Exif 2.32, tag 0x0112)."""

Enough = Callable[[int, int], tuple[int, int]]
"""From an upright image's (height, width) to the one at which the model will look at it."""


@dataclass(frozen=True)
class DecodePolicy:
    """What is done to images that are not plain 8-bit RGB. Alpha is dropped, 16 bits keep their upper eight."""

    max_pixels: int = 100_000_000
    """Images of more pixels are quarantined by their header, unread."""
    scale: str = "full"
    """auto: a JPEG that the model will look at in half its size or less is decoded in as few eighths of its size as give
    what the model takes, at most four."""
    exif: bool = True
    """Turn images upright as their EXIF orientation says; boxes and masks come back in the stored image's frame."""

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise ConfigError(f"pixel cap {self.max_pixels}: expected 1 or more")
        if self.scale not in DECODE_SCALES:
            raise ConfigError(f"decode scale {self.scale!r}: expected {' or '.join(DECODE_SCALES)}")


@dataclass(frozen=True)
class Decoded:
    """An image ready for a model."""

    pixels: npt.NDArray[np.uint8]
    """(height, width, 3) RGB, upright; smaller than the image where it was decoded at a reduced scale."""
    orientation: int
    """EXIF orientation of the stored image, 1 to 8."""
    height: int
    """Of the stored image."""
    width: int
    there: Uploaded | None = None
    """The pixels on a GPU, where they are sent ahead."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width of the image at its full scale, upright."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)

    @property
    def held(self) -> int:
        """Pixels that it keeps in memory."""
        return int(self.pixels.size) // 3

    def decoded(self) -> Decoded:
        """Itself."""
        return self


@dataclass(frozen=True)
class Postponed:
    """A large image whose header has been read, to be decoded when its turn comes."""

    data: bytes
    policy: DecodePolicy
    orientation: int
    """EXIF orientation of the stored image, 1 to 8."""
    height: int
    """Of the stored image."""
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, upright."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)

    @property
    def held(self) -> int:
        """Pixels that it keeps in memory: none."""
        return 0

    def decoded(self) -> Decoded:
        """Decode it.

        Raises:
            ImageError: it is damaged.
        """
        return decode(self.data, self.policy)


def probe(data: bytes) -> tuple[int, int]:
    """Return (width, height) of the stored image from its header; the beginning of a file is often enough.

    Raises:
        ImageError: no header of an image is found.
    """
    return _open(data).size


def decode(data: bytes, policy: DecodePolicy, enough: Enough | None = None) -> Decoded:
    """Decode one image (its first frame).

    Args:
        enough: what the model will make of its size, for a policy that decodes at a reduced scale; None = at full scale.

    Raises:
        ImageError: it is empty, no image, larger than the policy's cap, truncated, or of a kind without 8-bit colours.
    """
    image = _open_capped(data, policy)
    width, height = image.size
    try:
        orientation = _orientation(image, policy)
        least = _least(enough, height, width, orientation) if enough and policy.scale == "auto" else None
        pixels = _plain_jpeg(image, data, least)
        if pixels is None:
            pixels = np.asarray(_rgb(image))
        pixels = np.ascontiguousarray(UPRIGHT[orientation](pixels))
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise whatever a damaged file leads them to
        raise ImageError(f"{image.format or 'image'} of {width}x{height} is damaged or truncated ({error})") from None
    return Decoded(pixels, orientation, height, width)


def _least(enough: Enough, height: int, width: int, orientation: int) -> tuple[int, int]:
    """Height and width of the stored image below which the model would have to enlarge it."""
    if orientation < 5:
        return enough(height, width)
    across, down = enough(width, height)
    return down, across


def postponed(data: bytes, policy: DecodePolicy) -> Postponed:
    """Read the header alone.

    Raises:
        ImageError: it is empty, no image, or larger than the policy's cap.
    """
    image = _open_capped(data, policy)
    try:
        orientation = _orientation(image, policy)
    except Exception as error:  # noqa: BLE001 - as in decode
        raise ImageError(f"the header of this {image.format or 'image'} is damaged ({error})") from None
    return Postponed(data, policy, orientation, image.height, image.width)


def _open_capped(data: bytes, policy: DecodePolicy) -> Image.Image:
    image = _open(data)
    width, height = image.size
    if width * height > policy.max_pixels:
        raise ImageError(
            f"its header says {width}x{height} = {width * height / 1e6:.0f} megapixels, more than the cap of "
            f"{policy.max_pixels / 1e6:.0f}: raise --max-pixels if it is genuine"
        )
    return image


def _orientation(image: Image.Image, policy: DecodePolicy) -> int:
    found: int = image.getexif().get(EXIF_ORIENTATION, 1) if policy.exif else 1
    return found if found in UPRIGHT else 1


def _plain_jpeg(image: Image.Image, data: bytes, least: tuple[int, int] | None = None) -> npt.NDArray[np.uint8] | None:
    """Pixels of the commonest kind, to the bit those of Pillow in less time; None = of another kind, or damaged.

    With `least` (height, width) at the smallest scale of the DCT, a half or below, that gives as many pixels.
    """
    if image.format != "JPEG" or image.mode not in {"RGB", "L"}:
        return None
    reduced = {"min_height": least[0], "min_width": least[1], "min_factor": 2} if least else {}
    try:
        pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", **reduced)
    except ValueError:
        return None  # Pillow says what it is about the file
    return pixels


def _open(data: bytes) -> Image.Image:
    """Read the header."""
    if not data:
        raise ImageError("the object is empty (0 bytes)")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception:  # noqa: BLE001 - as above; what was found says more than the decoder's words
        raise ImageError(f"not an image that can be read: {len(data)} bytes that begin with {data[:16]!r}") from None


def _rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit RGB."""
    if image.mode in SIXTEEN_BIT:
        upper = np.clip(np.asarray(image).astype(np.int32) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(upper).convert("RGB")
    if image.mode == "F":
        raise ImageError("its pixels are 32-bit floats, whose range no header says: convert it to 8 or 16 bits")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def to_stored_frame(boxes_xyxy: npt.NDArray[np.float64], decoded: Decoded) -> npt.NDArray[np.float64]:
    """Carry boxes from the upright image back into the stored image's frame.

    Args:
        boxes_xyxy: (N, 4) left, top, right, bottom in pixels of the upright image.

    Returns:
        (N, 4) of the stored image.
    """
    if decoded.orientation == 1:
        return boxes_xyxy
    x1, y1, x2, y2 = boxes_xyxy.T
    width, height = decoded.width, decoded.height
    columns = {
        2: (width - x2, y1, width - x1, y2),
        3: (width - x2, height - y2, width - x1, height - y1),
        4: (x1, height - y2, x2, height - y1),
        5: (y1, x1, y2, x2),
        6: (y1, height - x2, y2, height - x1),
        7: (width - y2, height - x2, width - y1, height - x1),
        8: (width - y2, x1, width - y1, x2),
    }[decoded.orientation]
    return np.stack(columns, axis=1)


def mask_to_stored_frame(mask_hw: npt.NDArray[Pixel], orientation: int) -> npt.NDArray[Pixel]:
    """Carry a mask or map of the upright image (H, W) back into the stored image's frame."""
    turns: dict[int, Callable[[npt.NDArray[Pixel]], npt.NDArray[Pixel]]] = {
        1: lambda m: m,
        2: np.fliplr,
        3: lambda m: np.rot90(m, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda m: np.rot90(m, 1),
        7: lambda m: np.rot90(m, 2).T,
        8: lambda m: np.rot90(m, -1),
    }
    return np.ascontiguousarray(turns[orientation](mask_hw))
