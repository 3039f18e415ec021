"""Line charts as PNG: panels side by side that share their horizontal axis. Drawn by matplotlib, without its global state."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C8C00")
"""Colors that the color-blind can tell apart, after Okabe and Ito, https://jfly.uni-koeln.de/color/."""
INK = "#202020"
PANEL, DPI = (7.0, 4.6), 150
"""Size of a panel in inches, and dots per inch: letters stay readable when the picture is shown at half its size."""
LETTERS, TITLE = 12, 14
"""Points of the letters, and of the title's."""
FADED = 1.0
"""Curves of this width or less are background: their last value is not in the legend."""


@dataclass(frozen=True)
class Curve:
    """A line with its name in the legend."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: str
    width: float = 2.0
    dots: bool = False


@dataclass(frozen=True)
class Axis:
    """The range of a vertical axis."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Panel:
    """Curves that share their axes."""

    name: str
    curves: Sequence[Curve]
    axis: Axis


def draw(title: str, panels: Sequence[Panel], below: str, last: float) -> bytes:
    """Draw panels side by side as a PNG; the same panels give the same bytes.

    Args:
        below: name of the horizontal axis.
        last: the end of the horizontal axis, which begins at 0.
    """
    figure = Figure(figsize=(PANEL[0] * len(panels), PANEL[1]), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=TITLE)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, panel)
        axes.set_xlabel(below, fontsize=LETTERS)
        axes.set_xlim(0, last)
        axes.xaxis.get_major_locator().set_params(integer=True)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", metadata={"Software": None})
    return sink.getvalue()


def _draw(axes: Axes, panel: Panel) -> None:
    for curve in panel.curves:
        name = f"{curve.name}  {curve.y[-1]:.4g}" if curve.width > FADED else curve.name
        marker = "o" if curve.dots else None
        axes.plot(curve.x, curve.y, color=curve.color, linewidth=curve.width, marker=marker, markersize=4, label=name)
    if panel.axis.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(panel.axis.low, panel.axis.high)
    axes.set_ylabel(panel.name + (" (logarithmic)" if panel.axis.log else ""), fontsize=LETTERS)
    axes.tick_params(labelsize=LETTERS)
    axes.grid(visible=True, color="#E4E4E4")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=LETTERS - 1, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
