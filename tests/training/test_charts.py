from __future__ import annotations

import io

import numpy as np
from PIL import Image

from shardlens.pipeline.training.charts import DPI, PALETTE, PANEL, Axis, Curve, Panel, draw

WIDTH, HEIGHT = (round(side * DPI) for side in PANEL)
FLAT = Curve("flat", [0, 10], [5, 5], PALETTE[0], 3)


def places(png: bytes, color: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels of a color."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    rows, columns = np.nonzero(np.abs(pixels - wanted).max(2) < 12)
    return rows, columns


def row_of(value: float, axis: Axis) -> float:
    """The row of the pixels where a curve of this value lies."""
    curve = Curve("flat", [0, 10], [value, value], PALETTE[0], 3)
    rows, columns = places(draw("title", [Panel("value", [curve], axis)], "epoch", 10), PALETTE[0])
    return float(np.median(rows[columns < WIDTH // 2]))


def test_a_curve_lies_where_its_values_are() -> None:
    low, middle, high = (row_of(value, Axis(0, 10)) for value in (2, 5, 8))
    assert high < middle < low
    assert abs((low + high) / 2 - middle) <= 2


def test_a_logarithmic_axis_has_equal_steps_for_equal_factors() -> None:
    low, middle, high = (row_of(value, Axis(1, 1000, log=True)) for value in (3, 30, 300))
    assert abs((low + high) / 2 - middle) <= 2


def test_panels_are_side_by_side() -> None:
    panel = Panel("value", [Curve("one", [1], [0.5], PALETTE[1], 2, dots=True)], Axis(0, 1))
    for count in (1, 2):
        png = draw("title", [panel] * count, "epoch", 2)
        assert Image.open(io.BytesIO(png)).size == (count * WIDTH, HEIGHT)
    columns = places(png, PALETTE[1])[1]
    assert {int(column // WIDTH) for column in columns} == {0, 1}


def test_a_value_that_is_not_a_number_leaves_a_gap() -> None:
    broken = Curve("broken", [0, 1, 2], [1, float("nan"), 1], PALETTE[0])
    assert draw("title", [Panel("value", [broken], Axis(0, 2))], "epoch", 2)[:4] == b"\x89PNG"


def test_the_same_panels_give_the_same_bytes() -> None:
    assert draw("a", [Panel("v", [FLAT], Axis(0, 10))], "epoch", 10) == draw(
        "a", [Panel("v", [FLAT], Axis(0, 10))], "epoch", 10
    )
