"""How images are decoded: settings that a run records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from shardlens.pipeline.errors import ConfigError

DecodeScale = Literal["auto", "full"]


@dataclass(frozen=True)
class DecodePolicy:
    """What is done with images that are not plain 8-bit RGB. Alpha is dropped."""

    max_pixels: int = 100_000_000
    """Images with more pixels are quarantined by their header."""
    scale: DecodeScale = "full"
    """auto: a JPEG that the model resizes to a half or less is decoded at a reduced scale, in as few eighths of its size as
    give what the model needs, at most four."""
    exif: bool = True
    """Turn images upright by their EXIF orientation; boxes and masks come back in the frame of the stored image."""

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise ConfigError(f"pixel cap {self.max_pixels}: expected 1 or more")
        if self.scale not in get_args(DecodeScale):
            raise ConfigError(f"decode scale {self.scale!r}: expected {' or '.join(get_args(DecodeScale))}")
