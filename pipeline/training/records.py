"""A training run's folder: claimed at the start, filled with checkpoint and losses, and whole once train.json is there.

::

    checkpoints/<run>/run.json             settings and their fingerprint, created exclusively
                      model.safetensors    weights, model, options and labels: `predict --weights` takes it or the folder
                      training.parquet     one row a step
                      train.json           the report; readers take a folder with it for whole
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
from torch import nn

from models.weights import Checkpoint, save
from pipeline import runs, storage, tables
from pipeline.errors import RunError
from pipeline.networks import CHECKPOINT
from pipeline.training.job import TrainJob
from pipeline.warehouse import read_json, to_json

LISTED = 100
"""Unreadable images that train.json names."""
TRAINING = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("epoch", pa.int32(), nullable=False),  # 1, 2, ...
        pa.field("step", pa.int64(), nullable=False),  # 1, 2, ..., over all epochs
        pa.field("images", pa.int32(), nullable=False),  # of all workers
        pa.field("loss", pa.float64(), nullable=False),  # mean over the workers' images
        pa.field("parts", pa.map_(pa.string(), pa.float64()), nullable=False),  # of which the loss is the sum
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("gradient_norm", pa.float64(), nullable=False),  # before it was shortened
        pa.field("seconds", pa.float64(), nullable=False),  # of the first worker
        pa.field("wait_seconds", pa.float64(), nullable=False),  # of which it waited for data
    ]
)


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


def claim(job: TrainJob) -> dict[str, Any] | None:
    """Begin the run, or take up the one of the same name and settings.

    Returns:
        The document of `finish`, if the run is whole already.

    Raises:
        RunError: the name is taken by a run with other settings; the message shows the difference.
    """
    place = storage.join(job.folder, "run.json")
    document = {"run": job.run, "dataset": job.config.dataset, "fingerprint": job.fingerprint, "settings": job.settings}
    if not storage.create(place, to_json(document)):
        found = read_json(place)
        if found["fingerprint"] != job.fingerprint:
            raise RunError(
                f"training run {job.run!r} exists with other settings:\n"
                f"{runs.differing(found['settings'], job.settings)}\n"
                "give another --run name to train with these settings"
            )
    done = storage.join(job.folder, "train.json")
    return dict(read_json(done)) if storage.exists(done) else None


def publish(job: TrainJob, model: nn.Module, steps: Sequence[Step]) -> tuple[str, int]:
    """Write the table of the steps and the checkpoint.

    Returns:
        SHA-256 and bytes of the checkpoint.
    """
    storage.publish(storage.join(job.folder, "training.parquet"), tables.to_bytes(steps_table(job, steps)))
    data = save(model, Checkpoint(job.config.model, job.options, job.labels))
    storage.publish(storage.join(job.folder, CHECKPOINT), data)
    return hashlib.sha256(data).hexdigest(), len(data)


def steps_table(job: TrainJob, steps: Sequence[Step]) -> pa.Table:
    """Lay the steps out as `TRAINING`."""
    names = {"run": job.run, "dataset": job.config.dataset}
    rows = [{**names, **asdict(s), "loss": s.loss, "parts": list(s.parts.items())} for s in steps]
    return tables.from_rows(rows, TRAINING)


def finish(job: TrainJob, report: Mapping[str, Any], trained: Trained) -> None:
    """Write train.json, which makes the run whole."""
    document = {
        "run": job.run,
        "dataset": job.config.dataset,
        "dataset_version": job.dataset_version,
        "fingerprint": job.fingerprint,
        "settings": job.settings,
        "checkpoint": {"name": CHECKPOINT, "sha256": trained.sha256, "bytes": trained.bytes},
        "losses": [dict(losses) for losses in trained.losses],
        "left_out": dict(job.left_out),
        "unreadable": list(trained.unreadable[:LISTED]),
        "report": dict(report),
    }
    storage.publish(storage.join(job.folder, "train.json"), to_json(document))


def epoch_losses(steps: Sequence[Step]) -> dict[str, float]:
    """Mean loss, and mean of each part, over the images of `steps`."""
    images = sum(step.images for step in steps)
    means = {name: sum(s.parts[name] * s.images for s in steps) / images for name in steps[0].parts}
    return {"loss": sum(means.values()), **means}
