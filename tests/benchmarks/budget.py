"""An equal budget of computing time for every network of a comparison."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from shardlens.models.options import Value
from shardlens.pipeline.train import TrainConfig, train


@dataclass(frozen=True)
class Entry:
    """A network at its small size, and what is particular to its training."""

    model: str
    options: Mapping[str, Value] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fitted:
    """What came of an entry."""

    epochs: int
    minutes: float
    """Of computing, that they took."""
    checkpoint: str


def fit(dataset: str, entry: Entry, minutes: float, run: str, warehouse: str) -> Fitted:
    """Train for as many epochs as fit into `minutes` of computing."""
    config = TrainConfig(
        dataset,
        model=entry.model,
        option=tuple(f"{key}={value}" for key, value in entry.options.items()),
        **{"batch_size": 4, "learning_rate": 2e-3, "validate_every": 0, "warehouse": warehouse, **entry.training},
    )
    first, more = two_epochs(replace(config, run=f"{plain(run)}-timed", epochs=2))
    epochs = max(1, 1 + int((60 * minutes - first) / more))
    begun = time.process_time()
    done = train(replace(config, run=plain(run), epochs=epochs))
    return Fitted(epochs, (time.process_time() - begun) / 60, done.checkpoint)


def two_epochs(config: TrainConfig) -> tuple[float, float]:
    """Computing seconds of the first epoch, in which images are also decoded, and of the second."""
    times = [time.process_time()]
    train(config, lambda progress: times.append(time.process_time()))
    middle = times[len(times) // 2]
    return middle - times[0], time.process_time() - middle


@torch.inference_mode()
def milliseconds(network: Callable[[Any], object], images: Any) -> float:
    """Computing time of one call of a network in evaluation mode, the median of five after one that warms up."""
    network(images)
    taken = []
    for _ in range(5):
        begun = time.process_time()
        network(images)
        taken.append(time.process_time() - begun)
    return 1000 * sorted(taken)[2]


def plain(name: str) -> str:
    """`name` as a run may be called."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())
