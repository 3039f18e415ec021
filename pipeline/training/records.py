"""A training run's folder: claimed at the start, filled with checkpoint and losses, and complete once train.json exists.

::

    checkpoints/<run>/run.json             settings and their fingerprint, created exclusively
                      step-000123/...      checkpoints on the way, see `shardlens.pipeline.training.state`
                      model.safetensors    weights, model, options and labels: `predict --weights` takes it or the folder
                      training.parquet     one row a step
                      train.json           the report; a folder with it is complete
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa

from shardlens.pipeline import storage
from shardlens.pipeline.errors import RunError
from shardlens.pipeline.networks.checkpoints import CHECKPOINT, steps_below
from shardlens.pipeline.networks.weights import Checkpoint
from shardlens.pipeline.training.job import TrainJob
from shardlens.pipeline.training.state import OWNER, owner
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import read_json, to_json
from shardlens.pipeline.warehouse.removal import check_stays

LISTED = 100
"""Unreadable images that train.json names."""


@dataclass(frozen=True)
class Step:
    """What is noted of a step; the loss is that of the worker's images until it is summed over the workers."""

    epoch: int
    step: int
    images: int
    parts: Mapping[str, float]
    learning_rate: float
    gradient_norm: float
    seconds: float
    wait_seconds: float
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    """By the optimizer's group."""

    @property
    def loss(self) -> float:
        """Sum of the parts."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Trained:
    """What the first worker gives back after the last step; small, the weights are in the warehouse."""

    sha256: str
    bytes: int
    losses: tuple[Mapping[str, float], ...]
    """Mean of each epoch over its images: loss, and each of its parts."""
    steps: int
    seconds: float
    """Of the steps, without the start."""
    wait_seconds: float
    """Of which this worker waited for data."""
    unreadable: tuple[str, ...]
    """Images that could not be read, and why; left out."""
    resumed_from: int = 0
    """Step of the checkpoint that the last attempt began with; 0 = from the start."""
    validations: tuple[Mapping[str, float], ...] = ()
    """Figures of each validation, and the epoch and step after which it was made."""
    best_step: int | None = None
    """Step of the best one, whose weights were published; None = nothing was validated, they are the last ones."""
    initialized: str = ""
    """Which of the initial weights were loaded, and which were not."""


@dataclass(frozen=True)
class Claim:
    """A run's name as it was taken."""

    fresh: bool
    """Whether nobody had begun the run before."""
    done: dict[str, Any] | None
    """The document of `finish`, if the run is complete already."""


def claim(job: TrainJob) -> Claim:
    """Begin the run, or take up the one of the same name and settings.

    Raises:
        RunError: the name is taken by a run with other settings; the message shows the difference. Or it is being deleted.
    """
    place = storage.join(job.folder, "run.json")
    document = {"run": job.run, "dataset": job.config.dataset, "fingerprint": job.fingerprint, "settings": job.settings}
    fresh = storage.create(place, to_json(document))
    if not fresh:
        found = read_json(place)
        if found["fingerprint"] != job.fingerprint:
            raise RunError(
                f"training run {job.run!r} exists with other settings:\n"
                f"{runs.differing(found['settings'], job.settings)}\n"
                "give another --run name to train with these settings"
            )
    done = storage.join(job.folder, "train.json")
    check_stays(job.folder, f"training run {job.run!r}")
    Dataset.open(job.warehouse, job.config.dataset, job.dataset_version).check_stays()
    return Claim(fresh, dict(read_json(done)) if storage.exists(done) else None)


def release(job: TrainJob) -> None:
    """Give the run's name back when it failed before there was anything to keep, so that other settings may be tried.

    Not where another command has taken the run up.
    """
    if not steps_below(job.folder) and owner(job.folder) in (None, job.command):
        storage.delete(storage.join(job.folder, "run.json"))
        storage.delete(storage.join(job.folder, OWNER))


def identity(job: TrainJob) -> Checkpoint:
    """What a checkpoint of the run says of itself."""
    return Checkpoint(job.config.model, job.options, job.labels, job.config.image_size)


def publish(job: TrainJob, weights: bytes, steps: pa.Table) -> None:
    """Write the table of the steps and the weights."""
    storage.publish(storage.join(job.folder, "training.parquet"), tables.to_bytes(steps))
    storage.publish(storage.join(job.folder, CHECKPOINT), weights)


def steps_table(job: TrainJob, steps: Sequence[Step]) -> pa.Table:
    """Lay the steps out as `tables.TRAINING`."""
    names = {"run": job.run, "dataset": job.config.dataset}
    return tables.from_rows([{**names, **_row(step)} for step in steps], tables.TRAINING)


def _row(step: Step) -> dict[str, Any]:
    maps = {"parts": list(step.parts.items()), "learning_rates": list(step.learning_rates.items())}
    speed = step.images / step.seconds if step.seconds else None
    return {**asdict(step), "loss": step.loss, "images_per_second": speed, **maps}


def finish(job: TrainJob, report: Mapping[str, Any], trained: Trained) -> None:
    """Write train.json, which makes the run complete."""
    document = {
        "run": job.run,
        "dataset": job.config.dataset,
        "dataset_version": job.dataset_version,
        "fingerprint": job.fingerprint,
        "settings": job.settings,
        "checkpoint": {"name": CHECKPOINT, "sha256": trained.sha256, "bytes": trained.bytes},
        "losses": [dict(losses) for losses in trained.losses],
        "validations": [dict(figures) for figures in trained.validations],
        "left_out": dict(job.left_out),
        "unreadable": list(trained.unreadable[:LISTED]),
        "report": dict(report),
    }
    storage.publish(storage.join(job.folder, "train.json"), to_json(document))


def losses_by_epoch(table: pa.Table) -> list[dict[str, float]]:
    """Epoch, mean loss and mean of each part, for each epoch of a table of steps."""
    rows = table.select(["epoch", "images", "parts"]).to_pylist()
    groups = groupby(rows, key=itemgetter("epoch"))
    return [
        {"epoch": epoch, **epoch_losses([(r["images"], dict(r["parts"])) for r in group])} for epoch, group in groups
    ]


def epoch_losses(steps: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, float]:
    """Mean loss, and mean of each part, over the images of steps: (images, parts) each."""
    images = sum(number for number, _ in steps)
    means = {name: sum(parts[name] * number for number, parts in steps) / images for name in steps[0][1]}
    return {"loss": sum(means.values()), **means}
