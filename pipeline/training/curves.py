"""A training run as a picture: losses and metrics over the epochs, as a PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline import storage
from shardlens.pipeline.training import charts
from shardlens.pipeline.training.charts import INK, PALETTE, Axis, Curve, Panel
from shardlens.pipeline.training.job import TrainJob
from shardlens.pipeline.warehouse import tables

PICTURE = "curves.png"
"""Its name in a run's folder."""
SHOWN = ("AP", "AP50", "AP75", "AR100", "Dice", "IoU", "pixel_accuracy", "PQ")
"""Metrics that are drawn, their means over the categories."""
FADED_COLOR = "#B9C9D6"
STEEP = 30.0
"""Losses that fall by more than this factor have a logarithmic axis."""
POINTS = 2000
"""Maximum of points; of more steps, neighbors are averaged."""
DOTTED = 40
"""Curves of fewer points have a marker at each."""


Values = npt.NDArray[np.float64]


def publish(job: TrainJob, metrics: pa.Table) -> None:
    """Draw a run whose steps are written, next to its checkpoint."""
    steps = tables.from_bytes(storage.read(storage.join(job.folder, "training.parquet")))
    picture = draw(f"{job.run}: {job.config.model} on {job.config.dataset}", steps, metrics)
    storage.publish(storage.join(job.folder, PICTURE), picture)


def draw(title: str, steps: pa.Table, metrics: pa.Table) -> bytes:
    """Draw a run as a PNG: its losses, and its metrics where it was validated.

    Args:
        steps: rows of `tables.TRAINING`.
        metrics: rows of `tables.METRICS` of the validations.
    """
    losses, shown = loss_curves(steps), metric_curves(metrics)
    panels = [Panel("loss", losses, loss_axis(_values(losses)))]
    if shown:
        panels.append(Panel("validation", shown, Axis(0, _top(_values(shown)))))
    return charts.draw(title, panels, "epoch", float(pc.max(steps["epoch"]).as_py()))


def loss_curves(steps: pa.Table) -> list[Curve]:
    """The loss of each step, faded; on it the mean of each epoch, at its middle, and of each part if there are several."""
    epoch, loss, images = (steps[name].to_numpy().astype(float) for name in ("epoch", "loss", "images"))
    ends = np.unique(epoch)
    counts = [int((epoch == end).sum()) for end in ends]
    at = np.concatenate([end - 1 + (np.arange(n) + 1) / n for end, n in zip(ends, counts, strict=True)])
    pieces = min(POINTS, len(loss))
    x, y = ([float(piece.mean()) for piece in np.array_split(values, pieces)] for values in (at, loss))
    curves = [Curve("each step", x, y, FADED_COLOR, charts.FADED)]
    for number, (name, values) in enumerate({"loss": loss, **_parts(steps)}.items()):
        means = [float(np.average(values[epoch == end], weights=images[epoch == end])) for end in ends]
        color = PALETTE[(number - 1) % len(PALETTE)] if number else INK
        curves.append(Curve(name, (ends - 0.5).tolist(), means, color, 2 if number else 3, len(ends) < DOTTED))
    return curves


def _parts(steps: pa.Table) -> dict[str, Values]:
    """The loss's parts by name, if it has several."""
    rows = [dict(row) for row in steps["parts"].to_pylist()]
    names = sorted({name for row in rows for name in row})
    return {name: np.array([row.get(name, 0.0) for row in rows]) for name in names} if len(names) > 1 else {}


def metric_curves(metrics: pa.Table) -> list[Curve]:
    """The means over the categories after each validation, named by their task where there are several."""
    rows = [row for row in metrics.to_pylist() if row["category_id"] is None and row["value"] is not None]
    several = len({row["task"] for row in rows}) > 1
    points_of: dict[str, dict[float, float]] = {}
    for row in rows:
        if row["metric"] in SHOWN:
            name = f"{row['task']} {row['metric']}" if several else row["metric"]
            points_of.setdefault(name, {})[row["epoch"]] = row["value"]
    return [
        Curve(name, list(points), list(points.values()), PALETTE[i % len(PALETTE)], 2, len(points) < DOTTED)
        for i, (name, points) in enumerate(sorted(points_of.items()))
    ]


def loss_axis(values: Sequence[float]) -> Axis:
    """From 0, or logarithmic where the losses are positive and fall steeply."""
    low, high = min(values), max(values)
    if low > 0 and high > STEEP * low:
        return Axis(10 ** math.floor(math.log10(low)), high * 1.1, log=True)
    return Axis(min(0.0, low), _top(values))


def _top(values: Sequence[float]) -> float:
    return (max(values) * 1.05 if max(values) > 1 else min(1.0, max(values) * 1.1)) or 1.0


def _values(curves: Sequence[Curve]) -> list[float]:
    return [y for curve in curves for y in curve.y if math.isfinite(y)]
