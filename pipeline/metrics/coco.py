"""COCO's average precision and recall, from partials of shards.

`precision`, `recall` and the twelve figures equal those of pycocotools to the bit. A category without anything to find
(no truth, or only crowds and ignored objects) is undefined, null, and left out of the mean, whatever was predicted; a
category with truth and no predictions scores 0. Protocol: https://cocodataset.org/#detection-eval
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shardlens.pipeline.metrics.engines import AREAS, ENGINES, RECALLS, THRESHOLDS, Accumulated, Match
from shardlens.pipeline.metrics.objects import (
    Floats,
    Ints,
    IouType,
    Objects,
    Scope,
    predicted_objects,
    truth_objects,
)
from shardlens.pipeline.metrics.rules import MAX_DETS, Rules

CURVE_IOUS = (0.5, 0.75)
AREA_NAMES = tuple(AREAS)


@dataclass(frozen=True)
class Figure:
    """One of COCO's twelve figures."""

    name: str
    iou: float | None = None
    """None: the mean over 0.50:0.95."""
    area: str = "all"
    max_dets: int = 100

    @property
    def is_recall(self) -> bool:
        """Whether it is an average recall."""
        return self.name.startswith("AR")


FIGURES = (
    Figure("AP"),
    Figure("AP50", iou=0.5),
    Figure("AP75", iou=0.75),
    Figure("APsmall", area="small"),
    Figure("APmedium", area="medium"),
    Figure("APlarge", area="large"),
    Figure("AR1", max_dets=1),
    Figure("AR10", max_dets=10),
    Figure("AR100"),
    Figure("ARsmall", area="small"),
    Figure("ARmedium", area="medium"),
    Figure("ARlarge", area="large"),
)
"""In the order of pycocotools' `stats`."""
METRICS = tuple(figure.name for figure in FIGURES)


def figures(limit: int) -> tuple[Figure, ...]:
    """COCO's figures where `limit` predictions of an image and category count, not 100."""
    last = MAX_DETS[-1]
    renamed = (replace(f, name=f"AR{limit}") if f.name == f"AR{last}" else f for f in FIGURES)
    return tuple(replace(f, max_dets=limit) if f.max_dets == last else f for f in renamed)


def partial(
    iou_type: IouType, scope: Scope, annotations: pa.Table, predictions: pa.Table, rules: Rules
) -> dict[str, npt.NDArray[Any]]:
    """Match a shard's predictions to its truth.

    Args:
        annotations: rows of `tables.ANNOTATIONS`, those of the scope's images at least.
        predictions: rows of `tables.PREDICTIONS`, likewise, best first in each image.

    Returns:
        state: what the engine accumulates, uint8; support: (K, A) objects to find by category and area; truth and
        found: how many objects took part.
    """
    truth = truth_objects(annotations, iou_type, scope)
    found = predicted_objects(predictions, iou_type, scope)
    about = Match(iou_type, len(scope.category_ids), rules.limits)
    state = ENGINES[rules.engine].match(about, scope.positions, truth, found)
    return {
        "state": np.frombuffer(state, dtype=np.uint8),
        "support": _support(truth, len(scope.category_ids)),
        "truth": np.array(len(truth)),
        "found": np.array(len(found)),
    }


def _support(truth: Objects, categories: int) -> Ints:
    """(K, A): truth that can be missed, which crowds and ignored objects (their area is in no range) cannot."""
    counted = [~truth.crowd & (truth.area >= low) & (truth.area <= high) for low, high in AREAS.values()]
    return np.stack([np.bincount(truth.category[rows], minlength=categories) for rows in counted], axis=1)


@dataclass(frozen=True)
class CocoScore:
    """The score over all shards."""

    task: IouType
    accumulated: Accumulated
    support: Ints
    """(K, A) objects to find."""
    truth: int
    found: int
    limits: tuple[int, int, int] = MAX_DETS
    """The three limits on predictions, as in `accumulated`."""

    @property
    def stats(self) -> list[float | None]:
        """The twelve figures over all categories; None where it is undefined and pycocotools has -1."""
        return [self.value(figure) for figure in self.figures]

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The twelve figures by the limits that count."""
        return figures(self.limits[-1])

    def value(self, figure: Figure, category: int | None = None) -> float | None:
        """One figure, of one category (its index) or the mean over those that are defined."""
        chosen = slice(None) if category is None else slice(category, category + 1)
        ious = slice(None) if figure.iou is None else figure.iou == THRESHOLDS
        area, limit = AREA_NAMES.index(figure.area), self.limits.index(figure.max_dets)
        if figure.is_recall:
            values = self.accumulated.recall[ious][:, chosen, area, limit]
        else:
            values = self.accumulated.precision[ious][:, :, chosen, area, limit]
        defined = values[values > -1]
        return float(np.mean(defined)) if defined.size else None

    def rows(self, categories: Sequence[tuple[int, str]]) -> Iterator[dict[str, Any]]:
        """Rows of `tables.METRICS` (run and dataset left to the caller): the means, then each category (id, name)."""
        named: list[tuple[int | None, int | None, str | None]] = [(None, None, None)]
        named += [(index, *category) for index, category in enumerate(categories)]
        for index, category_id, name in named:
            for figure in self.figures:
                support = self.support[:, AREA_NAMES.index(figure.area)]
                yield {
                    "task": self.task,
                    "metric": figure.name,
                    "category_id": category_id,
                    "category": name,
                    "iou": figure.iou,
                    "area": figure.area,
                    "max_dets": figure.max_dets,
                    "value": self.value(figure, index),
                    "support": int(support.sum() if index is None else support[index]),
                }

    def curve(self, iou: float, category: int) -> tuple[Floats, Floats] | None:
        """Precision at the 101 recalls (all areas, the last limit), and the score that reaches each; None if undefined.

        Both are (101,); where the recall is never reached, the precision is 0 and the score NaN.
        """
        at = int(np.flatnonzero(iou == THRESHOLDS)[0])
        area, limit = AREA_NAMES.index("all"), -1
        precision = self.accumulated.precision[at, :, category, area, limit]
        if precision[0] < 0:
            return None
        reached = self.accumulated.recall[at, category, area, limit] >= RECALLS
        return precision, np.where(reached, self.accumulated.scores[at, :, category, area, limit], np.nan)

    def curve_rows(self, categories: Sequence[tuple[int, str]]) -> Iterator[dict[str, Any]]:
        """Rows of `tables.CURVES` (run and dataset left to the caller) of the categories that are defined."""
        for index, (category_id, name) in enumerate(categories):
            for iou in CURVE_IOUS:
                precision, score = self.curve(iou, index) or ((), ())
                for recall, p, s in zip(RECALLS[: len(precision)].tolist(), precision, score, strict=True):
                    named = {"task": self.task, "category_id": category_id, "category": name, "iou": iou}
                    yield {**named, "recall": recall, "precision": float(p), "score": None if np.isnan(s) else float(s)}


def merge(
    iou_type: IouType, partials: Sequence[Mapping[str, npt.NDArray[Any]]], categories: int, rules: Rules
) -> CocoScore:
    """Score the partials of any number of shards, in any order.

    Args:
        categories: how many categories the scope of every partial had.
    """
    states = [partial["state"].tobytes() for partial in partials]
    support = sum((partial["support"] for partial in partials), np.zeros((categories, len(AREAS)), np.int64))
    truth, found = (sum(int(partial[side]) for partial in partials) for side in ("truth", "found"))
    accumulated = ENGINES[rules.engine].accumulate(Match(iou_type, categories, rules.limits), states)
    return CocoScore(iou_type, accumulated, support, truth, found, rules.limits)
