from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from shardlens.pipeline.training.charts import DPI, PANEL
from shardlens.pipeline.training.curves import draw, loss_axis, loss_curves, metric_curves
from shardlens.pipeline.warehouse import tables

NAMED = {"run": "r", "dataset": "d"}
PLAIN = {"learning_rate": 0.1, "learning_rates": [], "gradient_norm": 1.0, "seconds": 1.0, "wait_seconds": 0.0}


def steps(*rows: tuple[int, int, dict[str, float]]) -> pa.Table:
    """Rows of (epoch, images, parts)."""
    made = [
        {**NAMED, **PLAIN, "step": i, "epoch": e, "images": n, "loss": sum(p.values()), "parts": list(p.items())}
        for i, (e, n, p) in enumerate(rows, 1)
    ]
    return tables.from_rows(made, tables.TRAINING)


def metrics(*rows: tuple[str, str, int, float | None], **more: Any) -> pa.Table:
    """Rows of (task, metric, epoch, value)."""
    made = [
        {**NAMED, "task": t, "metric": m, "epoch": e, "step": e, "value": v, "support": 1, **more}
        for t, m, e, v in rows
    ]
    return tables.from_rows(made, tables.METRICS)


STEPS = steps((1, 3, {"a": 4.0, "b": 1.0}), (1, 1, {"a": 2.0, "b": 1.0}), (2, 2, {"a": 1.0, "b": 1.0}))


def test_epochs_are_means_over_their_images_drawn_in_their_middle() -> None:
    each, loss, a, b = loss_curves(STEPS)
    assert (each.x, each.y) == ([0.5, 1.0, 2.0], [5.0, 3.0, 2.0])
    assert (loss.name, loss.x, loss.y) == ("loss", [0.5, 1.5], [4.5, 2.0])
    assert (a.name, a.y, b.name, b.y) == ("a", [3.5, 1.0], "b", [1.0, 1.0])


def test_one_part_alone_is_the_loss() -> None:
    assert [curve.name for curve in loss_curves(steps((1, 1, {"a": 4.0})))] == ["each step", "loss"]


def test_many_steps_are_drawn_as_fewer_points() -> None:
    (each, *_) = loss_curves(steps(*[(1, 1, {"a": float(i % 2)}) for i in range(4000)]))
    assert len(each.y) == 2000
    assert set(each.y) == {0.5}


def test_metrics_are_means_of_the_known_ones_by_epoch() -> None:
    found = metric_curves(metrics(("bbox", "AP", 2, 0.3), ("bbox", "AP", 4, 0.5), ("bbox", "ARsmall", 2, 0.1)))
    assert [(curve.name, curve.x, curve.y) for curve in found] == [("AP", [2, 4], [0.3, 0.5])]
    assert metric_curves(metrics(("bbox", "AP", 1, None))) == []
    assert metric_curves(metrics(("bbox", "AP", 1, 0.5), category_id=1, category="disc")) == []


def test_boxes_and_masks_are_distinguished() -> None:
    names = [curve.name for curve in metric_curves(metrics(("bbox", "AP", 1, 0.3), ("segm", "AP", 1, 0.2)))]
    assert names == ["bbox AP", "segm AP"]


@pytest.mark.parametrize(
    ("losses", "low", "log"),
    [([5.0, 1.0], 0, False), ([900.0, 2.0], 1, True), ([-2.0, 5.0], -2, False), ([0.0], 0, False)],
)
def test_a_steep_fall_is_drawn_logarithmically(losses: list[float], low: float, log: bool) -> None:
    axis = loss_axis(losses)
    assert (axis.low, axis.log) == (low, log)
    assert axis.high > max(losses)


def test_a_run_without_validations_has_one_panel() -> None:
    for table, panels in ((metrics(), 1), (metrics(("semantic", "Dice", 1, 0.8)), 2)):
        png = draw("r on d", STEPS, table)
        assert Image.open(io.BytesIO(png)).size[0] == round(panels * PANEL[0] * DPI)
        assert draw("r on d", STEPS, table) == png
