"""An equal budget of computing time for every network of a comparison."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from models.options import Value
from pipeline.train import TrainConfig, train


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
    option = tuple(f"{key}={value}" for key, value in entry.options.items())
    settings = {"batch_size": 4, "learning_rate": 2e-3, "validate_every": 0, "warehouse": warehouse, **entry.training}
    spent = []
    for epochs in (1, 2):  # the first of two epochs also decodes
        begun = time.process_time()
        train(
            TrainConfig(
                dataset, model=entry.model, option=option, run=f"{plain(run)}-{epochs}", epochs=epochs, **settings
            )
        )
        spent.append(time.process_time() - begun)
    first, more = spent[0], max(spent[1] - spent[0], 0.1)
    epochs = max(1, 1 + int((60 * minutes - first) / more))
    begun = time.process_time()
    done = train(TrainConfig(dataset, model=entry.model, option=option, run=plain(run), epochs=epochs, **settings))
    return Fitted(epochs, (time.process_time() - begun) / 60, done.checkpoint)


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
