"""The tasks that a run is scored by: what each needs of the truth, and how its partials merge."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from shardlens.pipeline.metrics import coco, panoptic, semantic
from shardlens.pipeline.metrics.coco import CocoScore
from shardlens.pipeline.metrics.collect import Partial
from shardlens.pipeline.metrics.engines import find_engine
from shardlens.pipeline.metrics.panoptic import PanopticScore
from shardlens.pipeline.metrics.semantic import SemanticScore

Score = CocoScore | SemanticScore | PanopticScore


EXPECTED = {
    "detection": ("bbox",),
    "instance": ("bbox", "segm"),
    "semantic": ("semantic",),
    "panoptic": ("segm", "semantic", "panoptic"),
}
"""What a model's task is scored by, even if it predicted nothing."""


def scorable(wanted: Sequence[str], annotations: pa.Table) -> tuple[str, ...]:
    """Those of the `wanted` tasks that the truth has what they need of."""
    kinds = set(annotations["kind"].unique().to_pylist())
    pixels = {"instance", "region"}
    needs = {"bbox": {"box", "instance"}, "segm": {"instance"}, "semantic": pixels, "panoptic": pixels}
    return tuple(task for task in wanted if needs[task] & kinds)


def merge(task: str, parts: Sequence[Partial], categories: int, engine: str) -> Score:
    """The score of a task over all shards, from their partials in any order."""
    found = [part[task] for part in parts]
    if task == "semantic":
        return semantic.merge(found, categories)
    if task == "panoptic":
        return panoptic.merge(found, categories)
    return coco.merge("segm" if task == "segm" else "bbox", found, categories, find_engine(engine))
