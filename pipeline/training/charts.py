"""Line charts as PNG: panels side by side, each with its axes, grid, ticks and legend."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C8C00")
"""Colors that the color-blind can tell apart, after Okabe and Ito, https://jfly.uni-koeln.de/color/."""
INK, GRAY = "#202020", "#E4E4E4"
PANEL, HEAD, FINE = (760, 440), 30, 2
"""Size of a panel, and height of the title; drawn FINE times as large, against jagged lines."""
MARGINS = (74, 46, 196, 56)
"""Left, top, right and bottom of a panel beside the curves."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True)
class Curve:
    """A line with its name in the legend."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: str
    width: int = 2
    dots: bool = False


@dataclass(frozen=True)
class Axis:
    """From values to shares of its length."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high one; beyond them the end itself."""
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, max(value, self.low)))
        return min(1.0, (at - low) / (high - low))

    def ticks(self, about: int) -> list[float]:
        """Round values within: steps of 1, 2 or 5 times a power of ten."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if len(powers) < 4 else (1,)
            return [s * 10.0**p for p in powers for s in steps if self.low <= s * 10.0**p <= self.high]
        rough = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Panel:
    """Curves that share their axes."""

    name: str
    curves: Sequence[Curve]
    across: Axis
    up: Axis


def draw(title: str, panels: Sequence[Panel], below: str) -> bytes:
    """Draw panels side by side as a PNG; `below` names their horizontal axis."""
    width, height = PANEL[0] * len(panels) * FINE, (PANEL[1] + HEAD) * FINE
    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)
    pen.text((MARGINS[0] * FINE, 14 * FINE), title, INK, _font(17))
    for number, panel in enumerate(panels):
        box = _inner(number)
        _axes(pen, box, panel, below)
        _lines(pen, box, panel)
        _legend(pen, box, panel.curves)
    sink = io.BytesIO()
    picture.resize((width // FINE, height // FINE), Image.Resampling.LANCZOS).save(sink, "PNG", optimize=True)
    return sink.getvalue()


def _inner(number: int) -> Box:
    """Where the curves of a panel are, in fine pixels."""
    left, top, right, bottom = MARGINS
    sides = (number * PANEL[0] + left, HEAD + top, (number + 1) * PANEL[0] - right, HEAD + PANEL[1] - bottom)
    return tuple(side * FINE for side in sides)  # type: ignore[return-value]  # four of them


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * FINE)


def _axes(pen: ImageDraw.ImageDraw, box: Box, panel: Panel, below: str) -> None:
    """Frame, grid, ticks and names of the axes."""
    (left, top, right, bottom), up, across = box, panel.up, panel.across
    for value in up.ticks(6):
        y = bottom - up.share(value) * (bottom - top)
        pen.line((left, y, right, y), GRAY, FINE)
        pen.text((left - 8 * FINE, y), f"{value:g}", INK, _font(13), anchor="rm")
    for value in across.ticks(8):
        if value == int(value):
            x = left + across.share(value) * (right - left)
            pen.line((x, bottom, x, bottom + 5 * FINE), INK, FINE)
            pen.text((x, bottom + 9 * FINE), f"{value:g}", INK, _font(13), anchor="mt")
    pen.line((left, top, left, bottom, right, bottom), INK, FINE)
    pen.text((left, top - 10 * FINE), panel.name + (" (logarithmic)" if up.log else ""), INK, _font(14), anchor="lb")
    pen.text(((left + right) / 2, bottom + 32 * FINE), below, INK, _font(14), anchor="mt")


def _lines(pen: ImageDraw.ImageDraw, box: Box, panel: Panel) -> None:
    left, top, right, bottom = box
    for curve in panel.curves:
        points = [
            (left + panel.across.share(x) * (right - left), bottom - panel.up.share(y) * (bottom - top))
            for x, y in zip(curve.x, curve.y, strict=True)
            if math.isfinite(y)
        ]
        pen.line(points, curve.color, curve.width * FINE, joint="curve")
        radius = (curve.width + 1) * FINE
        for x, y in points if curve.dots else []:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), curve.color)


def _legend(pen: ImageDraw.ImageDraw, box: Box, curves: Sequence[Curve]) -> None:
    """Names beside their colors, to the right of the curves; strong ones with their last value."""
    _, top, right, _ = box
    for number, curve in enumerate(curves):
        x, y = right + 16 * FINE, top + (8 + 20 * number) * FINE
        pen.line((x, y, x + 18 * FINE, y), curve.color, max(2, curve.width) * FINE)
        name = f"{curve.name}  {curve.y[-1]:.4g}" if curve.width > 1 else curve.name
        pen.text((x + 26 * FINE, y), name, INK, _font(13), anchor="lm")
