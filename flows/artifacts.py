"""What a run shows on Prefect's page: its progress, its metrics, and where its tables lie."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException

from shardlens.pipeline import storage
from shardlens.pipeline.annotations.problems import KINDS
from shardlens.pipeline.evaluate import Evaluation
from shardlens.pipeline.executors.base import Progress, ProgressListener, no_progress
from shardlens.pipeline.ingest import IngestReport
from shardlens.pipeline.predict import PredictReport
from shardlens.pipeline.train import TrainReport
from shardlens.pipeline.warehouse.layout import Warehouse, read_json


def key(kind: str, name: str) -> str:
    """Name an artifact; those of one name are versions of each other, so it holds what stays from run to run."""
    return f"{kind}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}"


WATCHER: ContextVar[ProgressListener] = ContextVar("watcher", default=no_progress)


@contextmanager
def watched_by(listener: ProgressListener) -> Iterator[None]:
    """Let `listener` follow the progress of the flows called within, in addition to Prefect's page."""
    token = WATCHER.set(listener)
    try:
        yield
    finally:
        WATCHER.reset(token)


class ProgressArtifacts:
    """Listens to a stage and keeps its bar on Prefect's page up to date, without hurry.

    A server that cannot be reached, or a bar that somebody deleted, costs the bar, not the stage.
    """

    def __init__(self, name: str, every_s: float = 3.0) -> None:
        self.name = name
        self.every_s = every_s
        self.bars: dict[str, UUID] = {}
        self.shown: dict[str, float] = {}

    def __call__(self, progress: Progress) -> None:
        """Show how far a stage is, at most every few seconds, and always its end."""
        WATCHER.get()(progress)
        now = time.monotonic()
        complete = progress.done >= progress.total
        if complete and progress.stage not in self.shown:
            return  # nothing was left to do
        if not complete and now - self.shown.get(progress.stage, -self.every_s) < self.every_s:
            return
        self.shown[progress.stage] = now
        try:
            self._show(progress)
        except (httpx.HTTPError, PrefectException) as error:
            get_run_logger().warning("the progress of %s cannot be shown: %s", progress.stage, error)

    def _show(self, progress: Progress) -> None:
        percent = 100.0 * progress.done / progress.total if progress.total else 100.0
        text = f"{self.name}: {progress.done} of {progress.total} {progress.unit}"
        text += f", {progress.detail}" if progress.detail else ""
        if progress.stage in self.bars:
            update_progress_artifact(self.bars[progress.stage], percent, text)
        else:
            found = create_progress_artifact(percent, key(f"progress-{progress.stage}", self.name), text)
            assert isinstance(found, UUID), "a synchronous task gets the id itself"
            self.bars[progress.stage] = found


def show_metrics(evaluation: Evaluation) -> None:
    """Publish the means over the categories as one table, the categories themselves as another."""
    about = f"Run **{evaluation.run}** on **{evaluation.dataset}**: {evaluation.images} images"
    about += f", {evaluation.quarantined} of them quarantined" if evaluation.quarantined else ""
    notes = "".join(f"\n\n{note}" for note in evaluation.notes)
    create_table_artifact(
        mean_rows(evaluation), key("metrics", evaluation.dataset), f"{about}. Means over the categories.{notes}"
    )
    create_table_artifact(
        category_rows(evaluation), key("categories", evaluation.dataset), f"{about}. Category by category.{notes}"
    )


def mean_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """A row for each metric: task, metric, value."""
    rows = evaluation.metrics.filter(evaluation.metrics["category_id"].is_null()).to_pylist()
    return [{"task": row["task"], "metric": row["metric"], "value": _figure(row["value"])} for row in rows]


def category_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """A row for each task and category, a column for each metric that any of them has."""
    rows = evaluation.metrics.filter(evaluation.metrics["category_id"].is_valid()).to_pylist()
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    table: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        named = {"task": row["task"], "category": row["category"]}
        empty = {**named, "support": row["support"], **dict.fromkeys(metrics, "")}
        table.setdefault((row["task"], row["category"]), empty)[row["metric"]] = _figure(row["value"])
    return list(table.values())


def _figure(value: float | None) -> float | str:
    """Four digits, as the command line has it."""
    return "undefined" if value is None else round(value, 4)


def show_run(report: PredictReport, warehouse: str) -> None:
    """Publish what came of a run, and where its tables lie."""
    place = Warehouse(warehouse)
    rows = {
        "dataset": f"{report.dataset}, version {report.dataset_version}",
        "images": str(report.images),
        "predictions": str(report.predictions),
        "quarantined": str(report.quarantined),
        "this attempt": _attempt(report),
        "of its images": report.carried_over,
        "prediction tables": f"`{report.uri}`",
        "outcome tables": f"`{place.outcomes(report.dataset, report.run)}`",
        "metric tables": f"`{place.metrics(report.dataset, report.run)}`, once it is scored",
        "labels without a category": ", ".join(report.unmatched_labels),
    }
    table = "\n".join(f"| {name} | {text} |" for name, text in rows.items() if text)
    sql = f"SELECT category, count(*)\nFROM predictions\nWHERE run = '{report.run}'\nGROUP BY ALL"
    create_markdown_artifact(
        f"### Run {report.run}\n\n| | |\n| --- | --- |\n{table}\n\n"
        f'```\nshardlens query --warehouse {place.root} "\n{sql}"\n```\n',
        key("run", report.dataset),
        f"The results of run {report.run}, and where its tables are.",
    )


def run_line(report: PredictReport) -> str:
    """Say in one line what came of a run."""
    return (
        f"run {report.run}: {report.predictions} predictions in {report.images} images of {report.dataset}"
        f"@{report.dataset_version}, {report.quarantined} quarantined; "
        + "; ".join(text for text in (report.carried_over, _attempt(report)) if text)
    )


def is_unchanged(report: PredictReport) -> bool:
    """Whether a run had been complete before, so that nothing was predicted."""
    return report.is_unchanged


def headline(evaluation: Evaluation) -> str:
    """The first metric of each task, as 'detection AP 0.191'."""
    first: dict[str, str] = {}
    for row in mean_rows(evaluation):
        first.setdefault(row["task"], "{task} {metric} {value}".format(**row))
    return ", ".join(first.values())


def _attempt(report: PredictReport) -> str:
    if is_unchanged(report):
        return "nothing to do, the run was complete before"
    resumed = f", {report.resumed_shards} shards were there already" if report.resumed_shards else ""
    return f"{report.seconds:.1f} s, {report.images_per_second:.1f} images/s in {report.precision}{resumed}"


def show_ingest(reports: Sequence[IngestReport]) -> None:
    """Publish what was taken in, and what was wrong with it."""
    for report in reports:
        splits = ", ".join(f"{split or '(no split)'} {count}" for split, count in report.splits.items())
        create_markdown_artifact(
            f"### {report.dataset}, version {report.version}\n\n"
            f"{report.images} images, {report.annotations} annotations ({report.crowds} crowds), "
            f"{report.categories} categories. Images in the dataset: {splits}.\n\n{_problems(report)}",
            key("dataset", report.dataset),
            f"Dataset {report.dataset}, version {report.version}: {report.images} images taken in.",
        )


def _problems(report: IngestReport) -> str:
    """What was wrong as a table in Markdown."""
    if not report.problems:
        return "No problems were found."
    cells = ((each.kind, str(each.count), KINDS[each.kind], "; ".join(each.examples)) for each in report.problems)
    rows = "\n".join(f"| {' | '.join(text.replace('|', '/') for text in row)} |" for row in cells)
    return f"| problem | count | what it is | examples |\n| --- | ---: | --- | --- |\n{rows}"


def show_checkpoint(report: TrainReport) -> None:
    """Publish where a checkpoint lies, how the training went, epoch by epoch, and its curves as a picture."""
    losses = "\n".join(f"| {name} | {value:.4f} |" for name, value in report.losses.items())
    best = "\n".join(
        f"| {name} | {value:.4f} |" for name, value in report.best.items() if name not in ("epoch", "step")
    )
    chosen = f"\n\n| best validation, epoch {report.best['epoch']:.0f} | |\n| --- | --- |\n{best}" if best else ""
    notes = "".join(f"\n- {note}" for note in (*report.notes, *_taken(report)))
    create_markdown_artifact(
        f"### Checkpoint of {report.run}\n\n`{report.checkpoint}`\n\n"
        f"{report.epochs} epochs over {report.images} images of {report.dataset}, version {report.dataset_version}, "
        f"in {report.seconds:.0f} s.\n{notes}\n\n| last epoch | mean |\n| --- | --- |\n{losses}{chosen}\n",
        key("checkpoint", report.dataset),
        f"Training run {report.run}: its checkpoint, and its losses.",
    )
    create_table_artifact(
        epoch_rows(report.checkpoint), key("training", report.dataset), f"Training run **{report.run}**, epoch by epoch"
    )
    if report.curves:
        picture = base64.b64encode(storage.read(report.curves)).decode()
        create_image_artifact(
            f"data:image/png;base64,{picture}",
            key("curves", report.dataset),
            f"Training run {report.run}: {report.curves}",
        )


def _taken(report: TrainReport) -> list[str]:
    """What the training began with, and what it left out of the data."""
    left_out = ", ".join(f"{count} {reason}" for reason, count in report.left_out.items())
    return [*filter(None, [report.initialized]), *([f"left out: {left_out}"] if left_out else [])]


def epoch_rows(checkpoint: str) -> list[dict[str, Any]]:
    """A row for each epoch: its losses, and the figures of its validation, if it had one."""
    document = read_json(storage.join(checkpoint, "train.json"))
    figures = {row["epoch"]: row for row in document.get("validations", [])}
    names = list(dict.fromkeys(name for row in figures.values() for name in row if name not in ("epoch", "step")))
    rows = []
    for losses in document["losses"]:
        found = figures.get(losses["epoch"], {})
        first = {name: losses[name] for name in ("epoch", "loss") if name in losses}
        rows.append(
            {k: _figure(v) for k, v in (first | losses).items()}
            | {n: _figure(found[n]) if n in found else "" for n in names}
        )
    return rows
