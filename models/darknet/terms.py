"""What a [yolo] or [region] section says of the loss.

https://github.com/AlexeyAB/darknet/wiki/CFG-Parameters-in-the-different-layers
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shardlens.models.darknet.cfg import Section
from shardlens.models.errors import ModelError
from shardlens.models.options import require

BOX_LOSSES = ("mse", "iou", "giou", "diou", "ciou")
_REFUSED = {"objectness_smooth": 0.0, "focal_loss": 0.0, "label_smooth_eps": 0.0, "truth_thresh": 1.0}
"""Keys that change Darknet's loss in ways that are not supported, and their values that do not."""


@dataclass(frozen=True)
class Terms:
    """The parts of the loss of one head, and their weights."""

    box: str = "mse"
    """mse: errors of what the network gives for a box; iou, giou, diou, ciou: of the box itself."""
    box_weight: float = 1.0
    object_weight: float = 1.0
    """Of the objectness of anchors that an object is matched to."""
    empty_weight: float = 1.0
    """Of the objectness of all others."""
    class_weight: float = 1.0
    ignore_threshold: float = 0.5
    """An anchor whose box overlaps an object more than that is not called empty."""
    match_threshold: float = 1.0
    """Anchors whose shape's IoU with an object is above that are matched to it, in addition to its best one."""
    rescore: bool = False
    """Whether objectness is to be the box's IoU with its object, instead of 1."""
    max_delta: float = math.inf
    """Largest gradient of an overlap loss by one value of the network."""
    burn_in: int = 0
    """Images of the beginning in which every box is pulled to its anchor."""
    untrainable: str = ""
    """Why the network can be used but not trained; empty: it can be."""


def read_terms(section: Section, burn_in: int = 0) -> Terms:
    """What a [yolo] or [region] section says of the loss, with Darknet's defaults."""
    box = section.text("iou_loss", "mse")
    if box not in BOX_LOSSES:
        raise section.error(f"iou_loss={box} is not known; known: {', '.join(BOX_LOSSES)}", "iou_loss")
    if section.kind == "region":
        return Terms(
            box,
            box_weight=section.number("coord_scale", 1),
            object_weight=section.number("object_scale", 1),
            empty_weight=section.number("noobject_scale", 1),
            class_weight=section.number("class_scale", 1),
            ignore_threshold=section.number("thresh", 0.5),
            rescore=section.integer("rescore", 0) != 0,
            burn_in=burn_in,
        )
    weight = section.number("obj_normalizer", 1)
    return Terms(
        box,
        box_weight=section.number("iou_normalizer", 1 if box == "mse" else 0.75),
        object_weight=weight,
        empty_weight=weight,  # cls_normalizer counts with counters_per_class alone, see _untrainable
        ignore_threshold=section.number("ignore_thresh", 0.5),
        match_threshold=section.number("iou_thresh", 1),
        max_delta=section.number("max_delta", math.inf),
        burn_in=burn_in,
        untrainable=_untrainable(section),
    )


def _untrainable(section: Section) -> str:
    if section.numbers("counters_per_class"):
        return "counters_per_class is not supported in training; remove it"
    for key, harmless in _REFUSED.items():
        if section.number(key, harmless) != harmless:
            return f"{key}={section.text(key, '')} is not supported in training; remove it or set it to {harmless:g}"
    return ""


def loss_keys(kind: str, box_loss: str, box_weight: float, ignore_threshold: float) -> dict[str, object]:
    """What a section of that `kind` says of these, as `read_terms` reads it.

    Raises:
        ModelError: a value that cannot be.
    """
    require("box_weight", box_weight, 0)
    require("ignore_threshold", ignore_threshold, 0, 1)
    if box_loss not in BOX_LOSSES:
        raise ModelError(f"option box_loss is {box_loss!r}; expected one of {', '.join(BOX_LOSSES)}")
    weight, threshold = ("coord_scale", "thresh") if kind == "region" else ("iou_normalizer", "ignore_thresh")
    return {"iou_loss": box_loss, weight: box_weight, threshold: ignore_threshold}
