"""Training over a dataset: prepare, claim the run's name, let a worker or many fit the network, make the run whole."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from pipeline import storage
from pipeline.execution import ProgressListener, no_progress
from pipeline.networks import CHECKPOINT
from pipeline.training import records
from pipeline.training.config import TrainConfig
from pipeline.training.job import TrainJob, prepare
from pipeline.training.loop import LocalWorker, fit
from pipeline.training.records import Trained

__all__ = ["TrainConfig", "TrainReport", "train"]


@dataclass(frozen=True)
class TrainReport:
    """What came of a training run."""

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
    """How many annotations and images were not learnt from, by reason."""
    seconds: float
    images_per_second: float
    """Of the steps, all workers together, without the start."""
    data_wait: float
    """Share of that time in which the first worker waited for images."""


def train(config: TrainConfig, progress: ProgressListener = no_progress) -> TrainReport:
    """Fit a network to a dataset and write its checkpoint; a run that is whole already is only reported.

    Raises:
        ShardlensError: see `pipeline.training.job.prepare` and `pipeline.training.loop.fit`.
        RunError: the run's name is taken by other settings.
        ExecutionError: the workers cannot be had, or one died.
    """
    begun = time.perf_counter()
    job = prepare(config)
    done = records.claim(job)
    if done is not None and storage.exists(storage.join(job.folder, CHECKPOINT)):
        return TrainReport(**done["report"])
    trained = launch(job, progress)
    report = summary(job, trained, time.perf_counter() - begun)
    records.finish(job, asdict(report), trained)
    return report


def launch(job: TrainJob, progress: ProgressListener) -> Trained:
    """Run the loop where the configuration wants it."""
    if job.config.executor.kind == "ray":
        from pipeline.executors.ray_train import fit_on_ray  # ray takes a second to import, and is wanted here alone

        return fit_on_ray(job, progress)
    return fit(job, LocalWorker(job.config.device, progress))


def summary(job: TrainJob, trained: Trained, seconds: float) -> TrainReport:
    """Sum a run up."""
    epochs = len(trained.losses)
    figures: dict[str, Any] = dict(trained.losses[-1])
    figures.pop("epoch")
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
        left_out=dict(job.left_out) | ({"unreadable images": len(trained.unreadable)} if trained.unreadable else {}),
        seconds=round(seconds, 3),
        images_per_second=round(epochs * job.images / trained.seconds, 3),
        data_wait=round(trained.wait_seconds / trained.seconds, 4),
    )
