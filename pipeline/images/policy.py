"""How images are decoded: settings that a run records."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from shardlens.pipeline.errors import ConfigError

DecodeScale = Literal["auto", "full"]


@dataclass(frozen=True)
class DecodePolicy:
    """What is done with images that are not plain 8-bit RGB, or not complete. Alpha is dropped."""

    max_pixels: int = 100_000_000
    """Images with more pixels are quarantined by their header."""
    scale: DecodeScale = "full"
    """auto: a JPEG that the model resizes to a half or less is decoded at a reduced scale, in as few eighths of its size as
    give what the model needs, at most four."""
    exif: bool = True
    """Turn images upright by their EXIF orientation; boxes and masks come back in the frame of the stored image."""
    value_range: str = "auto"
    """LOW:HIGH, the values that become 0 and 255 in images of more than 8 bits a value; auto: see `values`."""
    accept_missing_end: bool = False
    """Accept a JPEG that has all of its pixels and lacks only the marker of its end."""
    image_timeout: float = 60.0
    """Seconds after which the decoding of an image is ended, and the image quarantined; 0: never."""

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise ConfigError(f"pixel cap {self.max_pixels}: expected 1 or more")
        if self.scale not in get_args(DecodeScale):
            raise ConfigError(f"decode scale {self.scale!r}: expected {' or '.join(get_args(DecodeScale))}")
        if not 0 <= self.image_timeout < math.inf:
            raise ConfigError(f"image timeout {self.image_timeout}: expected seconds, 0 or more")
        _ = self.values

    @property
    def values(self) -> tuple[float, float] | None:
        """The values that become 0 and 255; None = by each image.

        Raises:
            ConfigError: it is not two numbers, the lower first.
        """
        if self.value_range == "auto":
            return None
        try:
            low, high = map(float, self.value_range.split(":"))
        except ValueError:
            low = high = math.nan
        if not -math.inf < low < high < math.inf:
            raise ConfigError(f"value range {self.value_range!r}: expected auto or LOW:HIGH, such as 0:4095")
        return low, high
