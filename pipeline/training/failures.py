"""Errors that end a training, with what to do about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from shardlens.pipeline.errors import ConfigError, TrainingError
from shardlens.pipeline.networks.devices import CPU_IS_FULL
from shardlens.pipeline.training.data import Batch

NAMED = 20
"""Image ids that a message names."""


def not_finite(
    what: str, epoch: int, step: int, parts: Mapping[str, float], image_ids: Sequence[int], learning_rate: float
) -> TrainingError:
    """Say what stopped the run at a step (both counted from 1), on which images, and what to try."""
    found = ", ".join(f"{name} {value:.4g}" for name, value in parts.items())
    more = f" and {len(image_ids) - NAMED} more" if len(image_ids) > NAMED else ""
    ids = ", ".join(map(str, image_ids[:NAMED])) + more
    return TrainingError(
        f"the {what} is not a finite number any more at epoch {epoch}, step {step} ({found}), on the images "
        f"{ids or '(none)'}: look at their annotations, or lower --learning-rate (it was {learning_rate:.3g})"
    )


OF_ONE_VALUE = "more than 1 value per channel"
"""Part of torch's message of a batch norm that was given one."""


def what_was_asked(reason: str) -> str:
    """The part of an error's text that says how much memory was wanted."""
    return reason[max(0, reason.find(CPU_IS_FULL[0])) :].partition(". ")[0]


def out_of_memory(reason: str, batch: Batch, device: torch.device, fits: Callable[[Batch, int], bool]) -> ConfigError:
    """Say that a batch is too large, and how many of its images are not: each try halves it.

    To be called when nothing of the attempt that failed is held any more, not while its error is handled.
    """
    images = len(batch)
    size = images // 2
    while size and not fits(batch, size):
        size //= 2
    advice = (
        f"one of {size} does: use --batch-size {size}, with --accumulate for as many images in a step"
        if size
        else "nor does one image: choose a smaller input for the model, or a smaller model"
    )
    return ConfigError(
        f"a batch of {images} images does not fit the memory of {device} ({what_was_asked(reason)}); {advice}"
    )


def too_few_for_statistics(model: str, images: int) -> ConfigError:
    """Say that a batch norm was given one value per channel."""
    return ConfigError(
        f"{model} takes statistics over the batch, and a worker's batch of {images} is too small for that: raise "
        "--batch-size, or use fewer --workers"
    )
