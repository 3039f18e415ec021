"""Panoptic quality from counts that merge by addition: how many segments are found, and how well.

A true and a predicted segment of one category match if their IoU is above 1/2; then no other can match either. PQ is the
matches' summed IoU by (matches + half the missed + half the false) = SQ, their mean IoU, times RQ, the F1 score. Pixels
that the truth leaves void (no row, a row without a category or with `ignore`) count for no union; a false segment of
which more than half is void or a crowd of its category is not counted. A category in neither truth nor prediction has
no value and is left out of the mean. https://arxiv.org/abs/1801.00868
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline import masks
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.masks.rle import Rle
from shardlens.pipeline.metrics.objects import Floats, Ints, Scope
from shardlens.pipeline.metrics.rules import Rules

VOID = -1
"""The category of pixels that are not scored."""
KINDS = ("region", "instance")
METRICS = ("PQ", "SQ", "RQ")


@dataclass(frozen=True)
class Segments:
    """The segments of one image."""

    numbers_hw: Ints
    """(H, W) 0 = none, else 1 + the position in `category`."""
    category: Ints
    """(S,) index of the category."""
    crowd: npt.NDArray[np.bool_]
    """(S,) whether it stands for a group of objects."""


def partial(
    scope: Scope, annotations: pa.Table, predictions: pa.Table, rules: Rules | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Match the segments of a shard's images.

    Returns:
        iou (K,) summed over the matches; matched, missed, false (K,); found: how many predicted segments took part.

    Raises:
        DatasetError: the masks of an image are of different sizes.
    """
    void = pc.or_(pc.is_null(annotations["category_id"]), annotations["ignore"])
    truth = _by_image(annotations.append_column("void", void), scope)
    plain = pa.array(np.zeros(predictions.num_rows, dtype=bool))
    predicted = _by_image(predictions.append_column("void", plain).append_column("iscrowd", plain), scope)
    total = np.zeros((4, len(scope.category_ids)))
    for image_id, stored in zip(scope.image_ids.tolist(), scope.sizes_hw.tolist(), strict=True):
        true, guess = truth.get(image_id, []), predicted.get(image_id, [])
        size = _size(image_id, [*true, *guess]) or stored
        if true or guess:
            total += quality(_painted(true, size, scope), _painted(guess, size, scope), len(scope.category_ids))
    found = sum(map(len, predicted.values()))
    return {"iou": total[0], "matched": total[1], "missed": total[2], "false": total[3], "found": np.array(found)}


def quality(truth: Segments, predicted: Segments, categories: int) -> Floats:
    """(4, K): the summed IoU of the matches, matches, missed and false segments of one image.

    Args:
        truth: category VOID where pixels are not scored.
    """
    sides = len(truth.category) + 1, len(predicted.category) + 1
    pairs = truth.numbers_hw.astype(np.int64) * sides[1] + predicted.numbers_hw
    common = np.bincount(pairs.ravel(), minlength=sides[0] * sides[1]).reshape(sides).astype(np.float64)
    void = np.append(True, truth.category == VOID)
    unscored = common[void].sum(axis=0)  # by predicted segment
    union = common.sum(axis=1)[:, None] + (common.sum(axis=0) - unscored) - common
    iou = (common / np.maximum(union, 1))[1:, 1:]
    scored = ~void[1:] & ~truth.crowd
    alike = scored[:, None] & (truth.category[:, None] == predicted.category)
    match = alike & (iou > 0.5)
    found = np.zeros((4, categories))
    np.add.at(found[0], truth.category[match.any(axis=1)], iou[match.any(axis=1)][match[match.any(axis=1)]])
    np.add.at(found[1], truth.category[match.any(axis=1)], 1)
    np.add.at(found[2], truth.category[scored & ~match.any(axis=1)], 1)
    crowd = truth.crowd[:, None] & (truth.category[:, None] == predicted.category)
    hidden = unscored[1:] + (common[1:, 1:] * crowd).sum(axis=0)
    false = ~match.any(axis=0) & (hidden <= 0.5 * common.sum(axis=0)[1:])
    np.add.at(found[3], predicted.category[false], 1)
    return found


@dataclass(frozen=True)
class PanopticScore:
    """The score over all shards."""

    counts: Floats
    """(4, K) as `quality` gives them."""

    @property
    def by_category(self) -> dict[str, Floats]:
        """PQ, SQ and RQ of each category, (K,), NaN = undefined."""
        iou, matched, missed, false = self.counts
        weight = matched + (missed + false) / 2
        shares = {"PQ": (iou, weight), "SQ": (iou, matched), "RQ": (matched, weight)}
        there = weight > 0
        return {name: np.where(there, part / np.where(of > 0, of, 1), np.nan) for name, (part, of) in shares.items()}

    def mean(self, metric: str) -> float | None:
        """Mean of a metric over the categories where it is defined; None = in none."""
        values = self.by_category[metric]
        defined = values[~np.isnan(values)]
        return float(defined.mean()) if defined.size else None

    def rows(self, categories: Sequence[tuple[int, str]]) -> Iterator[dict[str, Any]]:
        """Rows of `tables.METRICS` (run and dataset left to the caller); support = segments of the truth."""
        support = (self.counts[1] + self.counts[2]).astype(int)
        for metric, values in self.by_category.items():
            plain = {"task": "panoptic", "metric": metric}
            yield {**plain, "value": self.mean(metric), "support": int(support.sum())}
            for (category_id, name), value, count in zip(categories, values.tolist(), support.tolist(), strict=True):
                named = {**plain, "category_id": category_id, "category": name}
                yield {**named, "value": None if np.isnan(value) else value, "support": count}

    def curve_rows(self, categories: Sequence[tuple[int, str]]) -> Iterator[dict[str, Any]]:
        """No rows: segments are taken as they are, without a threshold to move."""
        return iter(())


def merge(
    partials: Iterable[Mapping[str, npt.NDArray[Any]]], categories: int, rules: Rules | None = None
) -> PanopticScore:
    """Score the partials of any number of shards, in any order."""
    names = ("iou", "matched", "missed", "false")
    parts = sorted((np.stack([part[name] for name in names]) for part in partials), key=lambda part: part.tobytes())
    return PanopticScore(sum(parts, np.zeros((4, categories))))


def _by_image(table: pa.Table, scope: Scope) -> dict[int, list[dict[str, Any]]]:
    """Rows with a mask and a known category, or void, by image."""
    named = pc.or_(table["void"], pc.is_in(table["category_id"], pa.array(scope.category_ids)))
    drawn = pc.and_(pc.is_valid(table["segmentation"]), pc.is_in(table["kind"], value_set=pa.array(KINDS)))
    wanted = pc.and_(pc.and_(drawn, named), pc.is_in(table["image_id"], pa.array(scope.image_ids)))
    found: dict[int, list[dict[str, Any]]] = {}
    columns = ["image_id", "category_id", "segmentation", "iscrowd", "void"]
    for row in table.select(columns).filter(wanted).to_pylist():
        found.setdefault(row["image_id"], []).append(row)
    return found


def _size(image_id: int, rows: Sequence[Mapping[str, Any]]) -> list[int] | None:
    sizes = {tuple(row["segmentation"]["size"]) for row in rows}
    if len(sizes) > 1:
        raise DatasetError(f"image {image_id}: its masks have the sizes {sorted(sizes)} (height x width), expected one")
    return next((list(size) for size in sizes), None)


def _painted(rows: Sequence[Mapping[str, Any]], size: Sequence[int], scope: Scope) -> Segments:
    """Segments painted the larger ones first, so that what lies on another is seen."""
    height, width = size
    numbers = np.zeros((height, width), dtype=np.int64)
    rles = [Rle(height, width, row["segmentation"]["counts"]) for row in rows]
    for i in sorted(range(len(rows)), key=lambda i: -masks.area(rles[i])):
        numbers[masks.decode(rles[i]).view(bool)] = i + 1
    place = {category: i for i, category in enumerate(scope.category_ids.tolist())}
    category = np.array([VOID if row["void"] else place[row["category_id"]] for row in rows], dtype=np.int64)
    return Segments(numbers, category, np.array([row["iscrowd"] for row in rows], dtype=bool))
