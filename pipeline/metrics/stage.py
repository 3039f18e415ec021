"""The half of an evaluation that runs on workers: a shard's predictions and truth become a partial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from shardlens.pipeline import storage
from shardlens.pipeline.metrics import partials
from shardlens.pipeline.metrics.objects import Scope
from shardlens.pipeline.metrics.rules import MAX_DETS, Rules
from shardlens.pipeline.metrics.tasks import TASKS
from shardlens.pipeline.warehouse import tables

READ = ("image_id", "category_id", "kind", "score", "bbox", "segmentation")
"""Columns of the predictions that metrics read."""


@dataclass(frozen=True, eq=False)
class ShardTruth:
    """One shard of a run, ready to be evaluated; it travels to a worker."""

    shard: int
    predictions: str
    """URI of the shard's predictions part."""
    partial: str
    """URI that the partial is published under."""
    scope: Scope
    annotations: bytes
    """The truth of the shard's images, Arrow IPC: pickling a slice of a table would send the whole table along."""


@dataclass(frozen=True)
class EvaluateStage:
    """Makes and stores a shard's partial."""

    tasks: tuple[str, ...]
    rules: Rules = field(default_factory=Rules)

    def setup(self) -> Callable[[ShardTruth], bytes]:
        """Return the function of a shard; there is no state."""
        return self.evaluate

    def evaluate(self, work: ShardTruth) -> bytes:
        """Give the partial's bytes, after publishing them."""
        masks = any(TASKS[task].masks for task in self.tasks)
        wanted = [name for name in READ if name != "segmentation" or masks]
        predictions = tables.from_bytes(storage.read(work.predictions), wanted)
        with pa.ipc.open_stream(work.annotations) as reader:
            annotations = reader.read_all()
        data = self.packed(work.scope, annotations, predictions)
        storage.publish(work.partial, data)
        return data

    def packed(self, scope: Scope, annotations: pa.Table, predictions: pa.Table) -> bytes:
        """The partials of all tasks, packed.

        Args:
            annotations: rows of `tables.ANNOTATIONS`, those of the scope's images at least.
            predictions: rows of `tables.PREDICTIONS`, likewise, best first in each image.
        """
        made = {task: TASKS[task].partial(scope, annotations, predictions, self.rules) for task in self.tasks}
        about = {
            "unnamed": np.array(predictions["category_id"].null_count),
            "lowest": np.array(_lowest_score(predictions)),
        }
        return partials.pack({**made, "predictions": about})


def _lowest_score(predictions: pa.Table) -> float:
    """The lowest score of the images with fewer predictions than count at all: others may end at a limit, not a threshold.

    NaN where there is none.
    """
    images, place, counts = np.unique(predictions["image_id"].to_numpy(), return_inverse=True, return_counts=True)
    scores = predictions["score"].to_numpy()[counts[place] < MAX_DETS[-1]] if len(images) else np.zeros(0)
    return float(scores.min()) if scores.size else float("nan")
