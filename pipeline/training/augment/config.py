"""Which random changes training makes to its images; every one is off unless it is asked for, but the mirror."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from shardlens.pipeline.training.settings import check

SHARES = ("scale", "hue", "saturation", "brightness", "contrast", "mosaic", "copy_paste", "multi_scale", "min_visible")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of training images, with their boxes, masks and maps."""

    flip: bool = True
    """Mirror half of the images, with their boxes and masks."""
    flip_vertical: bool = False
    """Turn half of the images upside down: for images without an up, as from a microscope."""
    scale: float = 0.0
    """Scale jitter: objects grow or shrink by up to this share, 0.5 = from 0.5 to 1.5 times, on a canvas of one size."""
    translate: float = 0.0
    """Shift by up to this share of the width and of the height."""
    rotate: float = 0.0
    """Turn by up to so many degrees; a turned box is the upright one around it, or around its mask."""
    hue: float = 0.0
    """Shift the hue by up to this share of the color circle, at most 0.5."""
    saturation: float = 0.0
    """Multiply the saturation by up to 1 more or less this."""
    brightness: float = 0.0
    """Multiply the brightness (the V of HSV) by up to 1 more or less this."""
    contrast: float = 0.0
    """Multiply the contrast by up to 1 more or less this."""
    elastic: float = 0.0
    """Elastic deformation: standard deviation of the shifts in pixels, as U-Net has it; instance and semantic models."""
    elastic_grid: int = 32
    """Pixels from one shift to the next; those between are interpolated."""
    crop: Annotated[tuple[int, int] | None, Parameter(negative="")] = None
    """Cut a random part of this height and width in pixels out, what is missing filled up; default: the complete image."""
    multi_scale: float = 0.0
    """Input size varies by up to this share, 0.25 = from 0.75 to 1.25 times, before the crop."""
    mosaic: float = 0.0
    """Share of the images that four are put together for, around a random point."""
    copy_paste: float = 0.0
    """Share of the images that get instances of another one pasted in by their masks; instance models."""
    plain_epochs: int = 0
    """Last epochs without mosaic and copy-paste, whose images are not like real ones."""
    min_visible: float = 0.2
    """Boxes of which less than this share stays in sight are dropped, and those less than 2 pixels wide or high."""

    def __post_init__(self) -> None:
        for name in SHARES:
            check(self, name, 0 <= getattr(self, name) <= 1, "a share from 0 to 1")
        check(self, "scale", self.scale < 1, "a share less than 1")
        check(self, "multi_scale", self.multi_scale < 1, "a share less than 1")
        check(self, "translate", 0 <= self.translate < 1, "a share less than 1")
        check(self, "rotate", 0 <= self.rotate <= 180, "degrees from 0 to 180")
        check(self, "hue", self.hue <= 0.5, "a share of at most 0.5")
        check(self, "elastic", 0 <= self.elastic < math.inf, "pixels, 0 or more")
        check(self, "elastic_grid", self.elastic_grid >= 2, "2 pixels or more")
        check(self, "crop", self.crop is None or min(self.crop) >= 1, "a height and a width")
        check(self, "plain_epochs", self.plain_epochs >= 0, "0 or more")
