"""Darknet's detectors: any .cfg of the YOLOv3, YOLOv3-tiny and YOLOv4-tiny kind, with its .weights."""

from __future__ import annotations

from torch import nn

from models.errors import ModelError
from models.options import require
from models.spec import InputRule, ModelSpec

from .heads import Selection
from .network import DarknetDetector

__all__ = ["SPEC", "DarknetDetector"]


def _build(
    *,
    num_classes: int,
    cfg: str,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.45,
    detections_per_image: int = 100,
    clip: bool = False,
) -> DarknetDetector:
    """`clip` ends the boxes at the image's border. The networks' published figures are of unclipped ones."""
    require("score_threshold", score_threshold, 0, 1)
    require("nms_threshold", nms_threshold, 0, 1)
    require("detections_per_image", detections_per_image, 1)
    network = DarknetDetector(cfg, Selection(score_threshold, nms_threshold, detections_per_image, clip))
    if network.classes != num_classes:
        raise ModelError(f"the cfg has {network.classes} classes; {num_classes} labels were given (no background here)")
    return network


def _rule(model: nn.Module) -> InputRule:
    assert isinstance(model, DarknetDetector)
    return InputRule(fixed=model.size)


SPEC = ModelSpec(
    name="darknet",
    task="detection",
    build=_build,
    input_rule=_rule,
    paper="https://arxiv.org/abs/1804.02767",
    background=False,
    text_options=("cfg",),
    score_option="score_threshold",
    trainable=False,
)
