"""Dice, IoU and pixel accuracy of semantic masks, from a confusion matrix of pixels that merges by addition.

What a class scores that is absent: in neither truth nor prediction null, and it is left out of the mean; absent in the
truth but predicted 0 (its accuracy, a share of the truth's pixels, is null). Each class counts once in the mean, the
background (pixels in no region) not at all; only `pixel_accuracy` counts it.

A pixel is void, and not scored, where the truth has a row without a category or with `ignore`, and where it gives two
categories to one pixel (as in torchvision's reference training). Instances of one category are united, crowds too.
Where predicted regions overlap, the one of better rank has the pixel; one that names no category of the dataset counts
as background. An image without predictions, quarantined ones too, is background all over.
Metrics: https://doi.org/10.1186/s12880-015-0068-x (Dice, IoU = Jaccard)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shardlens.pipeline.masks.rle import run_lengths
from shardlens.pipeline.metrics.objects import Floats, Ints, Scope
from shardlens.pipeline.metrics.regions import VOID, Region, predicted_regions, size_of, truth_regions
from shardlens.pipeline.metrics.rules import Rules

BACKGROUND = 0
BY_CATEGORY = ("Dice", "IoU", "accuracy")
METRICS = (*BY_CATEGORY, "pixel_accuracy")


def confusion(truth: Iterable[Region], predicted: Iterable[Region], height: int, width: int, categories: int) -> Ints:
    """Count the pixels of an image by true and predicted label, (K + 1, K + 1), label 0 = background, void left out.

    The work grows with the runs of the masks, not with the pixels: the image is cut where any run begins or ends, and
    every piece has one label on either side.

    Args:
        truth: regions in any order.
        predicted: regions, best first.
    """
    truth, predicted = list(truth), list(predicted)
    edges = {rle: np.append(0, np.cumsum(run_lengths(rle))) for _, rle in [*truth, *predicted]}
    cuts = np.sort(np.concatenate([[0, height * width], *edges.values()]))
    cuts = cuts[np.append(True, cuts[1:] != cuts[:-1])]  # np.unique hashes, which is slower here than sorting
    sizes = np.diff(cuts)
    true = np.zeros(sizes.size, dtype=np.int64)
    for label in sorted({label for label, _ in truth} - {VOID}):
        covered = _covered(cuts, [edges[rle] for found, rle in truth if found == label])
        true[covered] = np.where(true[covered] == BACKGROUND, label, VOID)
    true[_covered(cuts, [edges[rle] for label, rle in truth if label == VOID])] = VOID
    guess = np.zeros(sizes.size, dtype=np.int64)
    for label, rle in reversed(predicted):
        guess[_covered(cuts, [edges[rle]])] = label
    scored, side = true != VOID, categories + 1
    pairs = true[scored] * side + guess[scored]
    counts = np.bincount(pairs, weights=sizes[scored], minlength=side * side)  # float64 is exact up to 2**53 pixels
    return counts.astype(np.int64).reshape(side, side)


def _covered(cuts: Ints, edges: Sequence[Ints]) -> npt.NDArray[np.bool_]:
    """Which pieces between the cuts lie in a run of ones of any mask."""
    depth = np.zeros(cuts.size, dtype=np.int64)
    for ends in edges:
        places = np.searchsorted(cuts, ends[1 : 1 + 2 * ((ends.size - 1) // 2)])  # where ones begin, end, begin, ...
        depth += np.bincount(places[::2], minlength=cuts.size) - np.bincount(places[1::2], minlength=cuts.size)
    covered: npt.NDArray[np.bool_] = np.cumsum(depth)[:-1] > 0
    return covered


def partial(
    scope: Scope, annotations: pa.Table, predictions: pa.Table, rules: Rules | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Count the pixels of a shard's images.

    Args:
        annotations: rows of `tables.ANNOTATIONS`, those of the scope's images at least.
        predictions: rows of `tables.PREDICTIONS`, likewise, best first in each image.

    Returns:
        confusion: (K + 1, K + 1) pixels by true and predicted label; found: how many predicted masks took part.

    Raises:
        DatasetError: the masks of an image are of different sizes.
    """
    truth, found = truth_regions(annotations, scope), predicted_regions(predictions, scope)
    classes = len(scope.category_ids)
    total = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    for image_id, stored in zip(scope.image_ids.tolist(), scope.sizes_hw.tolist(), strict=True):
        true, guess = truth.get(image_id, []), found.get(image_id, [])
        height, width = size_of(image_id, true, guess) or stored
        if height * width > 0:
            total += confusion(true, guess, height, width, classes)
    return {"confusion": total, "found": np.array(sum(map(len, found.values())))}


@dataclass(frozen=True)
class SemanticScore:
    """The score over all shards."""

    confusion: Ints
    """(K + 1, K + 1) pixels by true and predicted label, label 0 = background."""

    @property
    def by_category(self) -> dict[str, Floats]:
        """Dice, IoU and accuracy of each category, (K,), NaN = undefined."""
        hit = np.diagonal(self.confusion)[1:]
        truth, guess = self.confusion.sum(axis=1)[1:], self.confusion.sum(axis=0)[1:]
        shares = {"Dice": (2 * hit, truth + guess), "IoU": (hit, truth + guess - hit), "accuracy": (hit, truth)}
        return {name: np.where(of > 0, part / np.maximum(of, 1), np.nan) for name, (part, of) in shares.items()}

    @property
    def pixel_accuracy(self) -> float | None:
        """Share of all scored pixels, background too, with the right label; None = no pixel."""
        total = int(self.confusion.sum())
        return float(np.trace(self.confusion) / total) if total else None

    def mean(self, metric: str) -> float | None:
        """Mean of a metric over the categories where it is defined; None = in none."""
        values = self.by_category[metric]
        defined = values[~np.isnan(values)]
        return float(defined.mean()) if defined.size else None

    def rows(self, categories: Sequence[tuple[int, str]]) -> Iterator[dict[str, Any]]:
        """Rows of `tables.METRICS` (run and dataset left to the caller); support = pixels of the truth."""
        pixels = self.confusion.sum(axis=1)
        overall = {"task": "semantic", "support": int(pixels[1:].sum())}
        for metric in BY_CATEGORY:
            yield {**overall, "metric": metric, "value": self.mean(metric)}
        yield {**overall, "metric": "pixel_accuracy", "value": self.pixel_accuracy, "support": int(pixels.sum())}
        for metric, values in self.by_category.items():
            columns = zip(categories, values.tolist(), pixels[1:].tolist(), strict=True)
            for (category_id, name), value, support in columns:
                named = {"task": "semantic", "metric": metric, "category_id": category_id, "category": name}
                yield {**named, "value": None if np.isnan(value) else value, "support": support}

    def curve_rows(self, categories: Sequence[tuple[int, str]]) -> Iterator[dict[str, Any]]:
        """No rows: labels without scores have no precision-recall curve."""
        return iter(())


def merge(
    partials: Iterable[Mapping[str, npt.NDArray[Any]]], categories: int, rules: Rules | None = None
) -> SemanticScore:
    """Score the partials of any number of shards, in any order."""
    empty = np.zeros((categories + 1, categories + 1), dtype=np.int64)
    return SemanticScore(sum((partial["confusion"] for partial in partials), empty))
