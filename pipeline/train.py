"""Train a network on a dataset: prepare, claim the run's name, run the loop on one worker or many, publish the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ShardlensError, StorageError
from shardlens.pipeline.executors.base import Progress, ProgressListener, no_progress
from shardlens.pipeline.executors.opening import apply_defaults, warn_of_address
from shardlens.pipeline.networks.checkpoints import CHECKPOINT, newest_step
from shardlens.pipeline.training import curves, records, scores
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.job import TrainJob
from shardlens.pipeline.training.loop import STAGES, LocalWorker, fit
from shardlens.pipeline.training.order import steps_per_epoch
from shardlens.pipeline.training.prepare import prepare
from shardlens.pipeline.training.records import Trained
from shardlens.pipeline.training.stepper import init_report

__all__ = ["TrainConfig", "TrainReport", "train"]


@dataclass(frozen=True)
class TrainReport:
    """The result of a training run."""

    run: str
    dataset: str
    dataset_version: str
    checkpoint: str
    """URI of the folder that `predict --weights` takes."""
    sha256: str
    """Of the weights file in it."""
    images: int
    epochs: int
    steps: int
    losses: dict[str, float]
    """Mean of the last epoch: loss, and each of its parts."""
    first_loss: float
    """Mean of the first epoch."""
    left_out: dict[str, int]
    """How many annotations and images were not trained on, by reason."""
    seconds: float
    images_per_second: float
    """Of the steps, all workers together, without the start-up."""
    data_wait: float
    """Share of that time in which the first worker waited for images."""
    best: dict[str, float] = field(default_factory=dict)
    """Figures of the best validation, whose weights were kept, and its epoch and step; empty if nothing was validated."""
    initialized: str = ""
    """Which of the initial weights were loaded, and which were not."""
    resumed_from: int = 0
    """Step of the checkpoint that the last attempt started from; 0 = from the beginning."""
    notes: list[str] = field(default_factory=list)
    """What to know of the data, as it was reported before the first step."""
    val_split: str | None = None
    """Split to validate on, and to score; None without validation."""
    curves: str = ""
    """URI of the losses and metrics as a picture."""

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TrainReport:
        """Read the report of a train.json; those of 0.1.0 have `initialised` for `initialized`."""
        known = {field.name for field in fields(cls)}
        renamed = {FORMER_NAMES.get(name, name): value for name, value in document.items()}
        return cls(**{name: value for name, value in renamed.items() if name in known})


FORMER_NAMES = {"initialised": "initialized"}
"""Fields of a report by the names that they had."""


def no_notes(note: str) -> None:
    """Ignore a note."""


def train(
    config: TrainConfig, progress: ProgressListener = no_progress, on_note: Callable[[str], None] = no_notes
) -> TrainReport:
    """Train a network on a dataset and write its checkpoint; of a complete run only the report is read.

    Args:
        on_note: called before the first step with each note on the data and the initial weights, a sentence at a time.

    Raises:
        ShardlensError: see `shardlens.pipeline.training.prepare.prepare` and `shardlens.pipeline.training.loop.fit`.
        RunError: the run's name is taken by other settings.
        ExecutionError: the workers cannot be had, or one died.
    """
    begun = time.perf_counter()
    progress(Progress("prepare", 0, STAGES, "stages", "reading the dataset and the initial weights", True))
    job = prepare(config)
    progress(Progress("prepare", 1, STAGES, "stages", "building the network", True))
    notes = (*job.notes, *init_report(job))
    claimed = records.claim(job)
    if claimed.done is not None and storage.exists(storage.join(job.folder, CHECKPOINT)):
        return TrainReport.from_json(claimed.done["report"])
    for note in notes:
        on_note(note)
    if not claimed.fresh:
        on_note(_resumption(job))
    try:
        trained = launch(job, progress)
    except ShardlensError as error:
        if claimed.fresh and not isinstance(error, StorageError):  # the same command resumes once the store is back
            records.release(job)
        raise
    curves.publish(job, scores.join(job, [int(figures["step"]) for figures in trained.validations]))
    report = summary(job, trained, time.perf_counter() - begun)
    records.finish(job, asdict(report), trained)
    return report


def _resumption(job: TrainJob) -> str:
    """Where the run resumes that was begun before."""
    step = newest_step(job.folder)
    if step is None:
        return f"run {job.run} was begun before, without a checkpoint: it starts again from step 0"
    total = job.config.epochs * steps_per_epoch(job.images, job.config.global_batch)
    return f"run {job.run} resumes from step {step} of {total}"


def launch(job: TrainJob, progress: ProgressListener) -> Trained:
    """Run the loop on the executor of the configuration."""
    config = job.config
    if config.executor.kind == "local":
        warn_of_address(config.executor)
        return fit(job, LocalWorker(config.device, progress))
    apply_defaults()
    from shardlens.pipeline.executors.ray_train import (  # ray takes a second to import, and is needed here alone
        Gang,
        run_gang,
    )

    newest = partial(newest_step, job.folder)
    gang = Gang(job.run, partial(fit, job), newest, config.fewest_workers, config.workers, config.max_failures)
    return run_gang(gang, config.executor, progress)


def summary(job: TrainJob, trained: Trained, seconds: float) -> TrainReport:
    """The report of a finished run."""
    epochs = len(trained.losses)
    figures: dict[str, Any] = dict(trained.losses[-1])
    figures.pop("epoch")
    best = next((validation for validation in trained.validations if validation["step"] == trained.best_step), {})
    return TrainReport(
        run=job.run,
        dataset=job.config.dataset,
        dataset_version=job.dataset_version,
        checkpoint=job.folder,
        sha256=trained.sha256,
        images=job.images,
        epochs=epochs,
        steps=trained.steps,
        losses=figures,
        first_loss=trained.losses[0]["loss"],
        best=dict(best),
        left_out=dict(job.left_out) | ({"unreadable images": len(trained.unreadable)} if trained.unreadable else {}),
        initialized=trained.initialized,
        resumed_from=trained.resumed_from,
        notes=list(job.notes),
        val_split=job.val_split,
        curves=storage.join(job.folder, curves.PICTURE),
        seconds=round(seconds, 3),
        images_per_second=round(epochs * job.images / trained.seconds, 3),
        data_wait=round(trained.wait_seconds / trained.seconds, 4),
    )
