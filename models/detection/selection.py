"""From scored boxes of an image to its detections: threshold, suppression, and the best few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from shardlens.models.boxes.suppression import Suppression, suppress, suppression
from shardlens.models.options import require

Detections = dict[str, Tensor]
"""boxes (N, 4) xyxy, labels (N,) int64, scores (N,), best first."""
NOTHING = 1e-2
"""Pixels; boxes that are narrower or lower, such as those cut at the image's border, are no detections."""
_CANDIDATES = 10_000
"""Boxes of an image that are compared with each other, at most."""


@dataclass(frozen=True)
class Selection:
    """Which boxes become detections."""

    score_threshold: float
    suppression: Suppression
    detections: int
    """Of an image, at most."""

    def __post_init__(self) -> None:
        require("score_threshold", self.score_threshold, 0, 1)
        require("detections_per_image", self.detections, 1)

    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, size: tuple[int, int]) -> Detections:
        """Detections of one image of `size` (height, width).

        Args:
            boxes: (N, 4) xyxy in pixels of that image; they are cut to it, and dropped where nothing is left.
            scores: (N,).
            labels: (N,) int64.
        """
        boxes = clip_boxes_to_image(boxes.float(), size)
        keep = remove_small_boxes(boxes, NOTHING)
        keep = keep[scores[keep] > self.score_threshold]
        keep = keep[scores[keep].argsort(descending=True, stable=True)[:_CANDIDATES]]
        boxes, scores, labels = boxes[keep], scores[keep].float(), labels[keep]
        kept, scores = suppress(boxes, scores, labels, self.suppression, self.detections)
        passed = scores > self.score_threshold  # softly suppressed ones may have fallen below
        return {"boxes": boxes[kept][passed], "labels": labels[kept][passed], "scores": scores[passed]}


class SolidDetections(nn.Module):
    """To stand before torchvision's FCOS or RetinaNet among a class's bases: leaves out what was cut to nothing."""

    def postprocess_detections(self, *outputs: Any) -> list[Detections]:
        """Detections of each image, of the head's outputs; torchvision's own, without those of no width or height."""
        solid = []
        for found in super().postprocess_detections(*outputs):  # type: ignore[misc]
            kept = remove_small_boxes(found["boxes"], NOTHING)
            solid.append({key: value[kept] for key, value in found.items()})
        return solid


def selection(
    score_threshold: float, nms_threshold: float, detections_per_image: int, method: str = "hard"
) -> Selection:
    """The rule that a detector's options of these names ask for.

    Raises:
        ModelError: one is senseless.
    """
    return Selection(score_threshold, suppression(method, nms_threshold), detections_per_image)


def by_class(boxes: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each class of each region as a candidate of its own, without the background: boxes, scores, labels.

    Args:
        boxes: (R, K, 4), or (R, 4) where all classes share the box.
        probabilities: (R, K), class 0 = background.
    """
    regions, classes = probabilities.shape
    each = boxes if boxes.dim() == 3 else boxes[:, None].expand(regions, classes, 4)
    labels = torch.arange(classes, device=boxes.device).expand(regions, classes)
    return each[:, 1:].reshape(-1, 4), probabilities[:, 1:].reshape(-1), labels[:, 1:].reshape(-1)
