"""Folders of checkpoints: where each step's lies, which are complete, and the file that holds the weights."""

from __future__ import annotations

import re

from shardlens.pipeline import storage

RANDOM = "random"


CHECKPOINT = "model.safetensors"


MANIFEST = "checkpoint.json"
"""In the folder of a step's checkpoint: written last: the checkpoint is complete once this exists."""


STEP = re.compile(r"step-(\d+)/")


PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".weights")


def weights_file(uri: str) -> str:
    """The file itself, or the one in a checkpoint's folder; of a training under way, the last checkpoint's."""
    if uri == RANDOM or uri.startswith(("http://", "https://")) or uri.endswith(WEIGHTS_SUFFIXES):
        return uri
    inside = storage.join(uri, CHECKPOINT)
    if storage.exists(inside):
        return inside
    newest = newest_step(uri)
    return uri if newest is None else storage.join(step_folder(uri, newest), CHECKPOINT)


def of_run(weights: str, checkpoints: str) -> str:
    """`weights`, or the folder of the training run of this name below `checkpoints`.

    A file or folder of the name goes first; a name without a slash or suffix that is neither stays what it is.
    """
    if not PLAIN_NAME.fullmatch(weights) or weights == RANDOM or weights.endswith(WEIGHTS_SUFFIXES):
        return weights
    folder = storage.join(checkpoints, weights)
    here = storage.normalize(weights)
    return folder if not storage.exists(here) and storage.exists(folder) else weights


def steps_below(folder: str) -> list[int]:
    """Steps of a training run that have a checkpoint's folder, complete or not, in order."""
    names = (STEP.fullmatch(name) for name in storage.children(folder))
    return sorted(int(match[1]) for match in names if match)


def whole_step(folder: str, step: int) -> bool:
    """Whether the checkpoint of a training run's step was written to its end."""
    return storage.exists(storage.join(step_folder(folder, step), MANIFEST))


def newest_step(folder: str) -> int | None:
    """Step of a training run's last checkpoint that was written to its end; None if there is none."""
    return next((step for step in reversed(steps_below(folder)) if whole_step(folder, step)), None)


def step_folder(folder: str, step: int) -> str:
    """Where the checkpoint of a training run's step lies."""
    return storage.join(folder, f"step-{step:06d}")
