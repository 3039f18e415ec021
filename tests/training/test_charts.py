from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from shardlens.pipeline.training.charts import HEAD, MARGINS, PALETTE, PANEL, Axis, Curve, Panel, draw


@pytest.mark.parametrize(
    ("axis", "about", "ticks"),
    [
        (Axis(0, 1), 5, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (Axis(0, 25), 8, [0, 5, 10, 15, 20, 25]),
        (Axis(0, 3.3), 6, [0, 1, 2, 3]),
        (Axis(-2, 2), 4, [-2, -1, 0, 1, 2]),
        (Axis(1, 1000, log=True), 6, [1, 10, 100, 1000]),
        (Axis(1, 30, log=True), 6, [1, 2, 5, 10, 20]),
    ],
)
def test_ticks_are_round_numbers_within(axis: Axis, about: int, ticks: list[float]) -> None:
    assert axis.ticks(about) == pytest.approx(ticks)


def test_shares_of_an_axis() -> None:
    assert [Axis(0, 4).share(v) for v in (0, 1, 4, 9)] == [0, 0.25, 1, 1]
    assert [Axis(1, 100, log=True).share(v) for v in (0.1, 1, 10, 100)] == pytest.approx([0, 0, 0.5, 1])


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def places(png: bytes, color: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels of a color."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return np.nonzero(np.abs(pixels(png) - wanted).max(2) < 12)


def test_a_curve_lies_where_its_values_say() -> None:
    flat = Curve("flat", [0, 10], [5, 5], PALETTE[0], 3)
    png = draw("title", [Panel("value", [flat], Axis(0, 10), Axis(0, 10))], "epoch")
    rows, columns = places(png, PALETTE[0])
    left, top, right, bottom = MARGINS
    inside = columns < PANEL[0] - right  # the legend is to the right
    middle = (HEAD + top + HEAD + PANEL[1] - bottom) / 2
    assert np.median(rows[inside]) == pytest.approx(middle, abs=2)
    assert (columns[inside].min(), columns[inside].max()) == pytest.approx((left, PANEL[0] - right), abs=2)
    assert not inside.all()


def test_panels_stand_side_by_side() -> None:
    panel = Panel("value", [Curve("one", [1], [0.5], PALETTE[1], 2, dots=True)], Axis(0, 1), Axis(0, 1))
    for count in (1, 2):
        png = draw("title", [panel] * count, "epoch")
        assert Image.open(io.BytesIO(png)).size == (count * PANEL[0], PANEL[1] + HEAD)
    dots = places(png, PALETTE[1])[1]
    assert {int(column // PANEL[0]) for column in dots} == {0, 1}


def test_what_is_no_number_leaves_a_gap_not_an_error() -> None:
    broken = Curve("broken", [0, 1, 2], [1, float("nan"), 1], PALETTE[0])
    assert draw("title", [Panel("value", [broken], Axis(0, 2), Axis(0, 2))], "epoch")[:4] == b"\x89PNG"
