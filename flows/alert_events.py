"""The events of a scheduled run that alerts are made of: too many quarantined images, a metric that fell.

Prefect's automations match events by name, and cannot compare figures; so the flow compares, and emits an event that holds
them. `automations` makes alerts of these events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter
from prefect import get_run_logger
from prefect.events import emit_event

from shardlens.flows.artifacts import is_unchanged
from shardlens.flows.last_run import Change, changes
from shardlens.pipeline.errors import ConfigError, StorageError
from shardlens.pipeline.evaluate import Evaluation
from shardlens.pipeline.predict import PredictReport

QUARANTINED = "shardlens.images.quarantined"
FELL = "shardlens.metric.fell"


@dataclass(frozen=True)
class AlertLimits:
    """From when on a run is worth an alert."""

    quarantined: Annotated[float, Parameter(name="--alert-quarantined")] = 0.001
    """Alert if more than this fraction of a run's images was quarantined. Above --max-quarantined the run fails anyhow."""
    drop: Annotated[float, Parameter(name="--alert-drop")] = 0.02
    """Alert if the first metric of a task (AP, Dice, PQ) is more than this below that of the last run with the same
    dataset, model and settings."""

    def __post_init__(self) -> None:
        for name, value in (("quarantined", self.quarantined), ("drop", self.drop)):
            if not 0 <= value <= 1:
                raise ConfigError(f"the limit of alerts '{name}' is {value}: expected a fraction from 0 to 1")


def emit_quarantined(report: PredictReport, limits: AlertLimits) -> None:
    """Emit an event if too large a share of a new run's images was quarantined."""
    share = report.quarantined / report.images if report.images else 0.0
    if is_unchanged(report) or share <= limits.quarantined:
        return
    figures = {"quarantined": report.quarantined, "images": report.images, "share": share, "limit": limits.quarantined}
    message = (
        f"{report.quarantined} of {report.images} images of {report.dataset} quarantined "
        f"({share:.2%}, alert above {limits.quarantined:.2%})"
    )
    _emit(QUARANTINED, report.run, report.dataset, figures, message)


def emit_fallen(evaluation: Evaluation, limits: AlertLimits, warehouse: str) -> None:
    """Emit an event for each task whose metric fell by more than the limit against the last run.

    A last run that cannot be read costs the comparison, not the flow.
    """
    try:
        compared = changes(evaluation, warehouse)
    except StorageError as error:
        get_run_logger().warning("run %s cannot be compared with the last one: %s", evaluation.run, error)
        return
    for change in compared:
        if change.fall <= limits.drop:
            get_run_logger().info("%s", _sentence(evaluation, change))
        else:
            figures = {
                "task": change.task,
                "metric": change.metric,
                "before": change.before,
                "now": change.now,
                "difference": change.now - change.before,
                "limit": limits.drop,
                "last_run": change.last_run,
            }
            _emit(FELL, evaluation.run, evaluation.dataset, figures, _sentence(evaluation, change))


def _sentence(evaluation: Evaluation, change: Change) -> str:
    return (
        f"{change.task} {change.metric} of {evaluation.dataset}: {change.before:.4f} in run {change.last_run}, "
        f"{change.now:.4f} in run {evaluation.run} ({-change.fall:+.4f})"
    )


def _emit(event: str, run: str, dataset: str, figures: dict[str, Any], message: str) -> None:
    """Emit an event about a run. Prefect relates it to flow run, flow and deployment."""
    resource = {"prefect.resource.id": f"shardlens.run.{run}", "prefect.resource.name": run}
    emit_event(event, resource, payload={"run": run, "dataset": dataset, **figures, "message": message})
    get_run_logger().warning("alert: %s", message)
