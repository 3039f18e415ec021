"""Checkpoints of a run: written atomically, in the background of the steps, and read back to resume bit-identically.

::

    checkpoints/<run>/step-000123/model.safetensors   what predicts: `predict --weights` takes it or its folder
                                  state.pt            optimizer, moving average, loss scaling; tensors and plain values
                                  steps.parquet       the rows of the steps so far
                                  checkpoint.json     the training state, and the digests of the others: written last
    checkpoints/<run>/owner                           which command trains the run: the one that took it up last

A folder without its checkpoint.json is none. Nothing random is kept, for it is drawn anew at each step, from the seed
and the step's number; the order of the images follows from the seed and the epoch.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from shardlens.pipeline import storage
from shardlens.pipeline.errors import (
    AccessDeniedError,
    LocationNotFoundError,
    RunError,
    StorageError,
    StorageUnavailableError,
)
from shardlens.pipeline.networks.checkpoints import CHECKPOINT, MANIFEST, step_folder, steps_below, whole_step
from shardlens.pipeline.networks.weights import Checkpoint, to_bytes
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.layout import read_json, to_json

STATE = "state.pt"
STEPS = "steps.parquet"
OWNER = "owner"
FORMAT = 1


@dataclass(frozen=True)
class TrainingState:
    """How far a run is after a step."""

    step: int = 0
    """Steps taken, over all epochs."""
    epoch: int = 0
    """Epochs that are over."""
    step_of_epoch: int = 0
    """Steps taken of the epoch under way."""
    validations: tuple[Mapping[str, float], ...] = ()
    """Figures of each validation, and the epoch and step after which it was made."""
    best_step: int | None = None
    """Of the best validation."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Image id -> why it could not be read."""


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment, on the CPU, apart from what goes on changing."""

    reached: TrainingState
    identity: Checkpoint
    weights: Mapping[str, Tensor]
    """What predicts."""
    state: Mapping[str, Any]
    """Whatever else the steps change: a tree of tensors and plain values."""
    steps: pa.Table
    """Rows of `records.TRAINING`."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint read back."""

    reached: TrainingState
    weights: bytes
    state: Mapping[str, Any]
    steps: pa.Table


def frozen(tree: Any) -> Any:
    """A copy on the CPU of a tree of dicts and lists, strides and all."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, Mapping):
        return {key: frozen(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(frozen(value) for value in tree)
    return tree


def write(folder: str, snapshot: Snapshot) -> None:
    """Write a checkpoint below the run's folder; what was there of the same step is replaced."""
    place = step_folder(folder, snapshot.reached.step)
    state = io.BytesIO()
    torch.save(snapshot.state, state)
    parts = {
        CHECKPOINT: to_bytes(snapshot.weights, snapshot.identity),
        STATE: state.getvalue(),
        STEPS: tables.to_bytes(snapshot.steps),
    }
    storage.delete(storage.join(place, MANIFEST))
    for name, data in parts.items():
        storage.publish(storage.join(place, name), data)
    digests = {name: {"sha256": digest(data), "bytes": len(data)} for name, data in parts.items()}
    manifest = {"format": FORMAT, "standing": asdict(snapshot.reached), "files": digests}
    storage.publish(storage.join(place, MANIFEST), to_json(manifest))


def read(folder: str, step: int) -> Saved | None:
    """The checkpoint of a step; None if it is incomplete or damaged.

    Raises:
        StorageError: the store cannot be read for now, or another version of Shardlens wrote it.
    """
    place = step_folder(folder, step)
    try:
        manifest = read_json(storage.join(place, MANIFEST))
        if not isinstance(manifest, dict) or not {"format", "standing", "files"} <= manifest.keys():
            return None
        parts = {name: storage.read(storage.join(place, name)) for name in manifest["files"]}
    except (StorageUnavailableError, AccessDeniedError):
        raise
    except StorageError:
        return None
    if manifest["format"] != FORMAT:
        raise StorageError(
            f"{place} is a checkpoint of format {manifest['format']}, expected {FORMAT}: go on with the version of Shardlens "
            "that wrote it, or give another --run name"
        )
    if any(digest(parts[name]) != about["sha256"] for name, about in manifest["files"].items()):
        return None
    reached = manifest["standing"]
    try:
        state = torch.load(io.BytesIO(parts[STATE]), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError):
        return None
    validations = tuple(reached.pop("validations"))
    return Saved(
        TrainingState(**reached, validations=validations), parts[CHECKPOINT], state, tables.from_bytes(parts[STEPS])
    )


def newest(folder: str) -> Saved | None:
    """The last complete checkpoint; one that was damaged since is passed over."""
    for step in reversed(steps_below(folder)):
        saved = read(folder, step)
        if saved is not None:
            return saved
    return None


def sweep(folder: str, keep: int, reached: TrainingState) -> None:
    """Remove all but the last `keep` checkpoints up to now, the best one, and what is incomplete or of a later step."""
    steps = steps_below(folder)
    past = [step for step in steps if step <= reached.step and whole_step(folder, step)]
    for step in steps:
        if step not in past[-keep:] and step != reached.best_step:
            place = step_folder(folder, step)
            storage.delete(storage.join(place, MANIFEST))
            storage.delete_folder(place)


def owner(folder: str) -> str | None:
    """The command that trains the run; None = the run was not begun, or its folder is gone."""
    try:
        return storage.read(storage.join(folder, OWNER)).decode()
    except LocationNotFoundError:
        return None


def digest(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


class Writer:
    """Writes checkpoints in the background, one at a time; the steps wait only for the copy of the state."""

    def __init__(self, folder: str, keep: int, command: str) -> None:
        self.folder, self.keep = folder, keep
        self.command = command
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def take_up(self) -> None:
        """Make the run this command's. Another one that still trains it ends at its next checkpoint, lest each of them
        sweep away what the other wrote.
        """
        storage.publish(storage.join(self.folder, OWNER), self.command.encode())

    def put(self, snapshot: Snapshot) -> None:
        """Begin to write, once the one before is written.

        Raises:
            StorageError: the one before could not be written.
            RunError: another command has taken the run up since.
        """
        self.wait()
        self._check_owner()
        self._pending = self._pool.submit(self._write, snapshot)

    def _write(self, snapshot: Snapshot) -> None:
        write(self.folder, snapshot)
        self._check_owner()  # writing takes long
        sweep(self.folder, self.keep, snapshot.reached)

    def _check_owner(self) -> None:
        found = owner(self.folder)
        if found is None:
            raise RunError(f"{self.folder} was removed while this run trained: it ends, with nothing to go on from")
        if found != self.command:
            raise RunError(
                f"another command has taken up the training run {self.folder} while this one trained it: this one ends "
                "here, and the other goes on from the checkpoint that it found; one at a time is enough"
            )

    def wait(self) -> None:
        """Wait until all is written.

        Raises:
            StorageError: it could not be.
            RunError: another command has taken the run up since.
        """
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def close(self) -> None:
        """Let what is being written come to its end; how that went is of no interest any more."""
        self._pool.shutdown()
