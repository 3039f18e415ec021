"""Darknet's rows of the zoo: `darknet`, which is given a .cfg, and the networks that need none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from models.darknet import architectures
from models.darknet.architectures import STRIDE, Anchors, Plan
from models.darknet.cfg import Section, parse
from models.darknet.heads import Selection
from models.darknet.loss import BOX_LOSSES
from models.darknet.network import DarknetDetector
from models.errors import ModelError
from models.options import require
from models.spec import InputRule, ModelSpec

COCO = tuple(name for name in FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"][1:] if name != "N/A")
"""The 80 labels of the published weights, in their order."""


@dataclass(frozen=True)
class Variant:
    """A published network, and the settings it was published with."""

    name: str
    paper: str
    sections: Callable[[Plan], list[Section]]
    anchors: Anchors
    head: Mapping[str, object] = field(default_factory=dict)
    """Keys of its last sections."""
    box_loss: str = "mse"
    box_weight: float = 1.0
    ignore_threshold: float = 0.5


YOLOV2, YOLOV3, YOLOV4 = (f"https://arxiv.org/abs/{number}" for number in ("1612.08242", "1804.02767", "2011.08036"))
_REGION = {"bias_match": 1, "rescore": 1, "object_scale": 5, "noobject_scale": 1, "class_scale": 1}
VARIANTS = (
    Variant("yolov2", YOLOV2, architectures.yolov2, architectures.REGION_ANCHORS, _REGION, ignore_threshold=0.6),
    Variant(
        "yolov2_tiny", YOLOV2, architectures.yolov2_tiny, architectures.REGION_ANCHORS, _REGION, ignore_threshold=0.6
    ),
    Variant("yolov3", YOLOV3, architectures.yolov3, architectures.ANCHORS),
    Variant("yolov3_spp", YOLOV3, architectures.yolov3_spp, architectures.ANCHORS),
    Variant("yolov3_tiny", YOLOV3, architectures.yolov3_tiny, architectures.TINY_ANCHORS),
    Variant(
        "yolov4_tiny",
        YOLOV4,
        architectures.yolov4_tiny,
        architectures.TINY_ANCHORS,
        {"scale_x_y": 1.05},
        "ciou",
        0.07,
        0.7,
    ),
)


def read_anchors(text: str) -> Anchors:
    """Anchors from "10,14, 23,27, ...": widths and heights in pixels, by area.

    Raises:
        ModelError: it is something else.
    """
    try:
        sides = [float(side) for side in text.split(",")]
    except ValueError:
        sides = []
    if not sides or len(sides) % 2 or min(sides) <= 0:
        raise ModelError(f"option anchors is {text!r}; expected widths and heights in pixels, such as 10,14,23,27")
    return tuple(sorted(zip(sides[::2], sides[1::2], strict=True), key=lambda anchor: anchor[0] * anchor[1]))


def _build_cfg(
    *,
    num_classes: int,
    cfg: str,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.45,
    detections_per_image: int = 100,
    clip: bool = False,
) -> DarknetDetector:
    """`clip` ends the boxes at the image's border. The networks' published figures are of unclipped ones."""
    network = DarknetDetector(parse(cfg), _selection(score_threshold, nms_threshold, detections_per_image, clip))
    if network.classes != num_classes:
        raise ModelError(f"the cfg has {network.classes} classes; {num_classes} labels were given (no background here)")
    return network


def _builder(variant: Variant) -> Callable[..., DarknetDetector]:
    def build(
        *,
        num_classes: int,
        input_size: int = 416,
        width: float = 1.0,
        anchors: str = "",
        box_loss: str = variant.box_loss,
        box_weight: float = variant.box_weight,
        ignore_threshold: float = variant.ignore_threshold,
        burn_in: int = 0,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.45,
        detections_per_image: int = 100,
        clip: bool = False,
    ) -> DarknetDetector:
        """Build it for square images of `input_size`, with `width` times the published filters."""
        _check(input_size, width, box_loss, ignore_threshold, burn_in)
        region = "rescore" in variant.head
        names = ("coord_scale", "thresh") if region else ("iou_normalizer", "ignore_thresh")
        head = dict(zip(names, (box_weight, ignore_threshold), strict=True)) | {"iou_loss": box_loss}
        sizes = read_anchors(anchors) if anchors else variant.anchors
        plan = Plan(num_classes, input_size, width, sizes, {**variant.head, **head})
        selection = _selection(score_threshold, nms_threshold, detections_per_image, clip)
        return DarknetDetector(variant.sections(plan), selection, burn_in)

    return build


def _check(input_size: int, width: float, box_loss: str, ignore_threshold: float, burn_in: int) -> None:
    require("input_size", input_size, STRIDE)
    if input_size % STRIDE:
        raise ModelError(f"option input_size is {input_size}; it must be a multiple of {STRIDE}")
    require("width", width, 0.01, 4)
    require("ignore_threshold", ignore_threshold, 0, 1)
    require("burn_in", burn_in, 0)
    if box_loss not in BOX_LOSSES:
        raise ModelError(f"option box_loss is {box_loss!r}; expected one of {', '.join(BOX_LOSSES)}")


def _selection(score_threshold: float, nms_threshold: float, limit: int, clip: bool) -> Selection:
    require("score_threshold", score_threshold, 0, 1)
    require("nms_threshold", nms_threshold, 0, 1)
    require("detections_per_image", limit, 1)
    return Selection(score_threshold, nms_threshold, limit, clip)


def _rule(model: nn.Module) -> InputRule:
    assert isinstance(model, DarknetDetector)
    return InputRule(fixed=model.size)


def _spec(variant: Variant) -> ModelSpec:
    return ModelSpec(
        name=variant.name,
        task="detection",
        build=_builder(variant),
        input_rule=_rule,
        paper=variant.paper,
        background=False,
        labels=COCO,
        score_option="score_threshold",
    )


SPECS = (
    ModelSpec(
        name="darknet",
        task="detection",
        build=_build_cfg,
        input_rule=_rule,
        paper=YOLOV3,
        background=False,
        text_options=("cfg",),
        score_option="score_threshold",
    ),
    *(_spec(variant) for variant in VARIANTS),
)
