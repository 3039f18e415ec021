"""From an object's bytes to upright RGB pixels, under a policy that the run records."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from shardlens.pipeline.errors import ConfigError, ImageError
from shardlens.pipeline.images import png
from shardlens.pipeline.images.orientation import to_stored_frame, turned_shape
from shardlens.pipeline.images.rgb import to_rgb

if TYPE_CHECKING:  # torch takes seconds to import, and most who decode do without
    from shardlens.pipeline.images.gpu_copy import Uploaded

Image.MAX_IMAGE_PIXELS = None  # the policy's cap stands in for it: checked on the header, before any pixel is made

EXIF_ORIENTATION = 0x0112
Image.init()
FORMATS = tuple({"JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF"} & set(Image.OPEN))
"""Formats whose header tells the size before a pixel is made; others (ICO, EPS) would decode, or start programs."""
DECODE_SCALES = ("auto", "full")
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
DOWNWARDS = (1, 2)
"""Orientations whose upper rows are stored first."""

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
        return turned_shape(self)

    @property
    def held(self) -> int:
        """Pixels that it keeps in memory."""
        return int(self.pixels.size) // 3

    def decoded(self) -> Decoded:
        """Itself."""
        return self

    def opened(self) -> Decoded:
        """Itself."""
        return self

    def crop(self, top: int, left: int, bottom: int, right: int) -> npt.NDArray[np.uint8]:
        """(h, w, 3) RGB of a window of the upright image, a view."""
        return self.pixels[top:bottom, left:right]


@dataclass(frozen=True)
class Opened:
    """An image as its decoder gives it, made upright RGB window by window: a copy of it all would double its memory."""

    stored: Image.Image | npt.NDArray[np.uint8] | png.Rows
    """Pillow's, or (height, width, 3) RGB, or what decodes them from top to bottom."""
    form: str | None
    """PNG, JPEG or another."""
    orientation: int
    """EXIF orientation of the stored image, 1 to 8."""
    height: int
    """Of the stored image."""
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, upright."""
        return turned_shape(self)

    def crop(self, top: int, left: int, bottom: int, right: int) -> npt.NDArray[np.uint8]:
        """(h, w, 3) RGB of a window of the upright image.

        Raises:
            ImageError: its pixels are no 8-bit colors, or those that have not been decoded yet are damaged.
        """
        window = to_stored_frame(np.array([[left, top, right, bottom]], dtype=np.float64), self)[0]
        x1, y1, x2, y2 = window.astype(int).tolist()
        with _damage_told(self.form, self.width, self.height):
            if isinstance(self.stored, Image.Image):
                part = np.asarray(to_rgb(self.stored.crop((x1, y1, x2, y2))))
            else:
                part = self.stored[y1:y2][:, x1:x2]
        return np.ascontiguousarray(UPRIGHT[self.orientation](part))


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
        return turned_shape(self)

    @property
    def upright(self) -> tuple[int, int]:
        """The same: its pixels are of the full scale."""
        return self.shape

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

    def opened(self) -> Opened:
        """Decode it, or be ready to, to be looked at window by window.

        Raises:
            ImageError: it is damaged.
        """
        return opened(self.data, self.policy)


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
        ImageError: it is empty, no image, larger than the policy's cap, truncated, or of a kind without 8-bit colors.
    """
    image = _open_capped(data, policy)
    width, height = image.size
    with _damage_told(image.format, width, height):
        orientation = _orientation(image, data, policy)
        least = _least(enough, height, width, orientation) if enough and policy.scale == "auto" else None
        pixels = _plain_jpeg(image, data, least)
        if pixels is None:
            pixels = np.asarray(to_rgb(image))
        return Decoded(np.ascontiguousarray(UPRIGHT[orientation](pixels)), orientation, height, width)


def opened(data: bytes, policy: DecodePolicy) -> Opened:
    """Decode one image (its first frame) at full scale, without a copy of its pixels, or be ready to.

    Raises:
        ImageError: see `decode`; what is damaged in rows that are decoded later is told by `Opened.crop`.
    """
    image = _open_capped(data, policy)
    with _damage_told(image.format, *image.size):
        orientation = _orientation(image, data, policy)
        return Opened(_stored(image, data, orientation), image.format, orientation, image.height, image.width)


def _stored(image: Image.Image, data: bytes, orientation: int) -> Image.Image | npt.NDArray[np.uint8] | png.Rows:
    """What holds little of a large image, and gives windows from its top to its bottom in one reading."""
    if image.format == "PNG" and orientation in DOWNWARDS and png.has_plain_rows(data):
        return png.Rows(data)
    pixels = _plain_jpeg(image, data)
    if pixels is None:
        image.load()
        return image
    return pixels


@contextmanager
def _damage_told(form: str | None, width: int, height: int) -> Iterator[None]:
    """Whatever a decoder raises as an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise whatever a damaged file leads them to
        raise ImageError(f"{form or 'image'} of {width}x{height} is damaged or truncated ({error})") from None


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
    with _damage_told(image.format, *image.size):
        return Postponed(data, policy, _orientation(image, data, policy), image.height, image.width)


def _open_capped(data: bytes, policy: DecodePolicy) -> Image.Image:
    image = _open(data)
    width, height = image.size
    if width * height > policy.max_pixels:
        raise ImageError(
            f"its header says {width}x{height} = {width * height / 1e6:.0f} megapixels, more than the cap of "
            f"{policy.max_pixels / 1e6:.0f}: raise --max-pixels if it is genuine"
        )
    return image


def _orientation(image: Image.Image, data: bytes, policy: DecodePolicy) -> int:
    """Without decoding it."""
    if not policy.exif:
        return 1
    exif = png.exif(image, data) if image.format == "PNG" else image.getexif()
    found: int = exif.get(EXIF_ORIENTATION, 1)
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
