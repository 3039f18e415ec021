"""Weighted box fusion: boxes of several detectors averaged, none thrown away.

Solovyev, Wang and Gabruseva: https://arxiv.org/abs/1910.13302
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """Boxes of one image."""

    boxes: Floats
    """(N, 4) xyxy."""
    scores: Floats
    """(N,), not negative."""
    labels: Ints
    """(N,)."""


def weighted_box_fusion(found: Sequence[Found], weights: Sequence[float], iou: float = 0.55) -> Found:
    """Fuse what each of M detectors found in one image; the best first.

    From the highest score down, each box joins the fused box of its class that it covers best with an IoU above `iou`,
    or founds one. A fused box is the mean of its T members weighted by their scores; its score is the mean of theirs,
    times min(T, M) / M, for a box that few detectors see is less sure.

    Args:
        weights: (M,) above 0, of the detectors: a score counts `weight` times, and M above becomes their sum.
    """
    boxes = np.concatenate([each.boxes.reshape(-1, 4) for each in found])
    scores = np.concatenate([each.scores * weight for each, weight in zip(found, weights, strict=True)])
    labels = np.concatenate([each.labels for each in found])
    kept = scores > 0
    boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
    fused = [_fuse(boxes[labels == k], scores[labels == k], weights, iou) for k in np.unique(labels)]
    counts = [len(part) for part, _ in fused]
    joined = np.concatenate([part for part, _ in fused] or [np.zeros((0, 4))])
    confidence = np.concatenate([part for _, part in fused] or [np.zeros(0)])
    order = np.argsort(-confidence, kind="stable")
    return Found(joined[order], confidence[order], np.repeat(np.unique(labels), counts)[order])


def _fuse(boxes: Floats, scores: Floats, weights: Sequence[float], iou: float) -> tuple[Floats, Floats]:
    """Fused boxes (F, 4) and scores (F,) of one class."""
    order = np.argsort(-scores, kind="stable")
    sums, total, members = np.zeros((len(boxes), 4)), np.zeros(len(boxes)), np.zeros(len(boxes))
    count = 0
    for box, score in zip(boxes[order], scores[order], strict=True):
        overlaps = _overlaps(box, sums[:count] / total[:count, None])
        place = int(overlaps.argmax()) if count and overlaps.max() > iou else count
        count += place == count
        sums[place] += score * box
        total[place] += score
        members[place] += 1
    sums, total, members = sums[:count], total[:count], members[:count]
    return sums / total[:, None], total / members * np.minimum(members, len(weights)) / sum(weights)


def _overlaps(box: Floats, others: Floats) -> Floats:
    """IoU (N,) of a box (4,) with others (N, 4)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared
    return np.asarray(shared / np.maximum(union, 1e-12))
