"""The tasks that a run is scored by: one table of what each needs of the truth, its two halves and its metrics.

A new task is a file that has the two halves, and a line in `TASKS`; `SCORED_BY` says which models are scored by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import pyarrow as pa

from shardlens.pipeline.metrics import coco, panoptic, semantic
from shardlens.pipeline.metrics.objects import KINDS, Scope
from shardlens.pipeline.metrics.partials import Arrays
from shardlens.pipeline.metrics.rules import Rules


class Score(Protocol):
    """The score of a task over all shards."""

    def rows(self, categories: Sequence[tuple[int, str]]) -> Iterator[dict[str, Any]]:
        """Rows of `tables.METRICS` (run and dataset left to the caller): the means, then each category (id, name)."""
        ...

    def curve_rows(self, categories: Sequence[tuple[int, str]]) -> Iterator[dict[str, Any]]:
        """Rows of `tables.CURVES` (run and dataset left to the caller); none where there is no threshold to move."""
        ...


@dataclass(frozen=True)
class ScoringTask:
    """How predictions of one kind are scored."""

    name: str
    needs: frozenset[str]
    """Kinds of annotations, one of which the truth must have."""
    partial: Callable[[Scope, pa.Table, pa.Table, Rules], Arrays]
    """Counts of a shard, from its scope, annotations and predictions: they merge, and are stored. `found` among them
    is how many predictions took part."""
    merge: Callable[[Sequence[Arrays], int, Rules], Score]
    """The score, from the counts of all shards in any order, and the number of categories."""
    metrics: tuple[str, ...]
    """Names of its metrics; by the first one training chooses the best checkpoint."""
    masks: bool = True
    """Whether the masks of the predictions are read."""


PIXELS = frozenset({"instance", "region"})
TASKS: dict[str, ScoringTask] = {
    task.name: task
    for task in (
        ScoringTask(
            "bbox", KINDS["bbox"], partial(coco.partial, "bbox"), partial(coco.merge, "bbox"), coco.METRICS, masks=False
        ),
        ScoringTask("segm", KINDS["segm"], partial(coco.partial, "segm"), partial(coco.merge, "segm"), coco.METRICS),
        ScoringTask("semantic", PIXELS, semantic.partial, semantic.merge, semantic.METRICS),
        ScoringTask("panoptic", PIXELS, panoptic.partial, panoptic.merge, panoptic.METRICS),
    )
}
SCORED_BY: dict[str, tuple[str, ...]] = {
    "detection": ("bbox",),
    "instance": ("bbox", "segm"),
    "semantic": ("semantic",),
    "panoptic": ("segm", "semantic", "panoptic"),
}
"""The tasks that a model is scored by, even if it predicted nothing; the last one is its own."""
OBJECTS = ("bbox", "segm")
"""What a run of an unknown model can be scored by."""


def scorable(wanted: Iterable[str], annotations: pa.Table) -> tuple[str, ...]:
    """Those of the `wanted` tasks for which the truth has annotations."""
    kinds = set(annotations["kind"].unique().to_pylist())
    return tuple(task for task in wanted if TASKS[task].needs & kinds)


def merge(task: str, parts: Sequence[Mapping[str, Arrays]], categories: int, rules: Rules) -> Score:
    """The score of a task over all shards, from their partials in any order."""
    return TASKS[task].merge([part[task] for part in parts], categories, rules)


def metric_names(model_task: str) -> tuple[str, ...]:
    """Metrics of a validation: those of the model's own task by their names, those of the others as `task/name`."""
    *others, own = SCORED_BY[model_task]
    return (*TASKS[own].metrics, *(f"{task}/{name}" for task in others for name in TASKS[task].metrics))
