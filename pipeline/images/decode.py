"""From an object's bytes to upright RGB pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from shardlens.pipeline.errors import ImageError
from shardlens.pipeline.images import jpeg, png
from shardlens.pipeline.images.decode_process import ImageTimeoutError, decode_in_process, slowest
from shardlens.pipeline.images.header import as_image_error, open_checked, orientation_of, stored_size
from shardlens.pipeline.images.orientation import INVERSE, Stored, to_stored_frame, turned_shape
from shardlens.pipeline.images.policy import DecodePolicy
from shardlens.pipeline.images.rgb import to_rgb
from shardlens.pipeline.images.values import is_deep, to_eight_bits

Image_ = TypeVar("Image_")
Rgb = npt.NDArray[np.uint8]
"""(height, width, 3)."""

UPRIGHT: dict[int, Callable[[Rgb], Rgb]] = {
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
"""From an upright image's (height, width) to the size that the model resizes it to."""


class Windowed(Stored, Protocol):
    """An image whose upright pixels are read by windows: decoded, or decoded as they are asked for."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, upright."""

    def crop(self, top: int, left: int, bottom: int, right: int) -> Rgb:
        """(h, w, 3) RGB of a window of the upright image."""


@dataclass(frozen=True)
class Decoded:
    """An image ready for a model."""

    pixels: Rgb
    """(height, width, 3) RGB, upright; smaller than the image where it was decoded at a reduced scale."""
    orientation: int
    """EXIF orientation of the stored image, 1 to 8."""
    height: int
    """Of the stored image."""
    width: int

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

    def crop(self, top: int, left: int, bottom: int, right: int) -> Rgb:
        """(h, w, 3) RGB of a window of the upright image, a view."""
        return self.pixels[top:bottom, left:right]


@dataclass(frozen=True)
class Opened:
    """An image as its decoder gives it, made upright RGB window by window: a copy of it all would double its memory."""

    stored: Image.Image | Rgb | png.Rows
    """Pillow's, or (height, width, 3) RGB, or what decodes them from top to bottom."""
    form: str | None
    """PNG, JPEG or another."""
    orientation: int
    """EXIF orientation of the stored image, 1 to 8."""
    height: int
    """Of the stored image."""
    width: int
    turn: int
    """The orientation again, or 1 where `stored` is upright already."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, upright."""
        return turned_shape(self)

    def crop(self, top: int, left: int, bottom: int, right: int) -> Rgb:
        """(h, w, 3) RGB of a window of the upright image.

        Raises:
            ImageError: its pixels are no 8-bit colors, or those that have not been decoded yet are damaged.
        """
        window = np.array([[left, top, right, bottom]], dtype=np.float64)
        x1, y1, x2, y2 = (window if self.turn == 1 else to_stored_frame(window, self))[0].astype(int).tolist()
        with as_image_error(self.form, self.width, self.height):
            if isinstance(self.stored, Image.Image):
                part = np.asarray(to_rgb(self.stored.crop((x1, y1, x2, y2))))
            else:
                part = self.stored[y1:y2][:, x1:x2]
        return np.ascontiguousarray(UPRIGHT[self.turn](part))


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


def ensure_decoded(image: Decoded | Postponed) -> Decoded:
    """The pixels of an image, decoded now if that was postponed.

    Raises:
        ImageError: it is damaged.
    """
    return decode(image.data, image.policy) if isinstance(image, Postponed) else image


def open_windows(image: Decoded | Postponed) -> Windowed:
    """The image by windows, opened now if that was postponed.

    Raises:
        ImageError: it is damaged.
    """
    return opened(image.data, image.policy) if isinstance(image, Postponed) else image


def decode(data: bytes, policy: DecodePolicy, enough: Enough | None = None) -> Decoded:
    """Decode one image (its first frame).

    Args:
        enough: the size that the model resizes it to, for a policy that decodes at a reduced scale; default: full scale.

    Raises:
        ImageError: it is empty, no image, larger than the policy's cap, truncated, or of a kind that cannot be read.
    """
    return _repaired(lambda file: _decode(file, policy, enough), data, policy)


def _decode(data: bytes, policy: DecodePolicy, enough: Enough | None) -> Decoded:
    image = open_checked(data, policy)
    width, height = stored_size(image)
    with as_image_error(image.format, width, height):
        orientation = _orientation(image, data, policy)
        if 0 < policy.image_timeout < slowest(image, data):
            shape = (width, height) if orientation >= 5 else (height, width)
            return Decoded(*decode_in_process(data, policy, enough(*shape) if enough else None))
        least = _least(enough, height, width, orientation) if enough and policy.scale == "auto" else None
        pixels = _plain_jpeg(image, data, least)
        if pixels is not None:
            return Decoded(np.ascontiguousarray(UPRIGHT[orientation](pixels)), orientation, height, width)
        turn = _turn(image, data, orientation)
        pixels = np.asarray(to_rgb(_eight_bits(image, data, policy)))
        return Decoded(np.ascontiguousarray(UPRIGHT[turn](pixels)), orientation, height, width)


def opened(data: bytes, policy: DecodePolicy) -> Opened:
    """Open one image (its first frame) at full scale, without a copy of its pixels.

    Raises:
        ImageError: see `decode`; damage in rows that are decoded later is raised by `Opened.crop`.
    """
    return _repaired(lambda file: _opened(file, policy), data, policy)


def _opened(data: bytes, policy: DecodePolicy) -> Opened:
    image = open_checked(data, policy)
    width, height = stored_size(image)
    with as_image_error(image.format, width, height):
        orientation = _orientation(image, data, policy)
        turn = _turn(image, data, orientation)
        by_rows = _has_rows(image, data, orientation)
        slow = not by_rows and 0 < policy.image_timeout < slowest(image, data)
        if slow:
            pixels = Decoded(*decode_in_process(data, policy, None)).pixels
            return Opened(pixels, image.format, orientation, height, width, turn=1)
        if turn != orientation and orientation == 1:  # upright, but wanted as it is stored
            return Opened(decode(data, policy).pixels, image.format, orientation, height, width, turn=1)
        return Opened(_stored(image, data, orientation, policy), image.format, orientation, height, width, turn)


def postponed(data: bytes, policy: DecodePolicy) -> Postponed:
    """Read the header alone.

    Raises:
        ImageError: it is empty, no image, or larger than the policy's cap.
    """
    image = open_checked(data, policy)
    width, height = stored_size(image)
    with as_image_error(image.format, width, height):
        return Postponed(data, policy, _orientation(image, data, policy), height, width)


def _orientation(image: Image.Image, data: bytes, policy: DecodePolicy) -> int:
    return orientation_of(image, data) if policy.exif else 1


def _turn(image: Image.Image, data: bytes, orientation: int) -> int:
    """Orientation that is left to apply to the pixels that Pillow gives: it turns a TIFF upright, whatever the policy."""
    if not isinstance(image, TiffImageFile):
        return orientation
    return 1 if orientation != 1 else INVERSE[orientation_of(image, data)]


def _eight_bits(image: Image.Image, data: bytes, policy: DecodePolicy) -> Image.Image:
    """The image, loaded, its values scaled where they have more than 8 bits."""
    if is_deep(image):
        return to_eight_bits(image, data, policy.values)
    image.load()
    return image


def _repaired(read: Callable[[bytes], Image_], data: bytes, policy: DecodePolicy) -> Image_:
    """Read an image; if it cannot be read, then without what is not needed of a PNG, or with the end of a JPEG."""
    try:
        return read(data)
    except ImageTimeoutError:
        raise
    except ImageError as error:
        repaired = png.without_texts(data) or jpeg.completed(data)
        if repaired is None:
            raise
        if jpeg.is_jpeg(data) and not policy.accept_missing_end:
            raise ImageError(
                f"{error}; only the marker of its end is missing: --accept-missing-end accepts it"
            ) from None
    return read(repaired)


def _has_rows(image: Image.Image, data: bytes, orientation: int) -> bool:
    """Whether its rows can be decoded one after the other."""
    return image.format == "PNG" and orientation in DOWNWARDS and png.has_plain_rows(data)


def _stored(image: Image.Image, data: bytes, orientation: int, policy: DecodePolicy) -> Image.Image | Rgb | png.Rows:
    """What holds little of a large image, and gives windows from its top to its bottom in one reading."""
    if _has_rows(image, data, orientation):
        return png.Rows(data)
    pixels = _plain_jpeg(image, data)
    return _eight_bits(image, data, policy) if pixels is None else pixels


def _least(enough: Enough, height: int, width: int, orientation: int) -> tuple[int, int]:
    """Height and width of the stored image below which the model would have to enlarge it."""
    if orientation < 5:
        return enough(height, width)
    across, down = enough(width, height)
    return down, across


def _plain_jpeg(image: Image.Image, data: bytes, least: tuple[int, int] | None = None) -> Rgb | None:
    """Pixels of the commonest kind, to the bit those of Pillow in less time; None if it is of another kind or damaged.

    With `least` (height, width) at the smallest scale of the DCT, a half or below, that gives as many pixels.
    """
    if image.format != "JPEG" or image.mode not in {"RGB", "L"}:
        return None
    reduced = {"min_height": least[0], "min_width": least[1], "min_factor": 2} if least else {}
    try:
        pixels: Rgb = simplejpeg.decode_jpeg(data, "RGB", **reduced)
    except ValueError:
        return None  # Pillow says what is wrong with the file
    return pixels
