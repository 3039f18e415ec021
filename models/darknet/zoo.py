"""Darknet's rows of the zoo: `darknet`, which is given a .cfg, and the networks that need none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from shardlens.models.darknet import architectures, yolo9000
from shardlens.models.darknet.architectures import Anchors, Plan, read_anchors
from shardlens.models.darknet.cfg import Section, parse
from shardlens.models.darknet.heads import Selection
from shardlens.models.darknet.network import DarknetDetector, input_rule
from shardlens.models.darknet.terms import loss_keys
from shardlens.models.darknet.yolo9000 import word_tree
from shardlens.models.errors import ModelError
from shardlens.models.spec import ModelSpec

COCO = tuple(name for name in FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"][1:] if name != "N/A")
"""The 80 labels of the published weights, in their order."""


@dataclass(frozen=True)
class Variant:
    """A published network, and the settings it was published with."""

    name: str
    paper: str
    sections: Callable[[Plan], list[Section]]
    anchors: Anchors
    kind: str = "yolo"
    """Of its last sections."""
    head: Mapping[str, object] = field(default_factory=dict)
    """Further keys of those."""
    box_loss: str = "mse"
    box_weight: float = 1.0
    ignore_threshold: float = 0.7


YOLOV2, YOLOV3, YOLOV4 = (f"https://arxiv.org/abs/{number}" for number in ("1612.08242", "1804.02767", "2011.08036"))
VARIANTS = (
    Variant("yolov2", YOLOV2, architectures.yolov2, architectures.REGION_ANCHORS, "region", ignore_threshold=0.6),
    Variant(
        "yolov2_tiny",
        YOLOV2,
        architectures.yolov2_tiny,
        architectures.REGION_ANCHORS,
        "region",
        head={"rescore": 0},
        ignore_threshold=0.6,
    ),
    Variant("yolov3", YOLOV3, architectures.yolov3, architectures.ANCHORS),
    Variant("yolov3_spp", YOLOV3, architectures.yolov3_spp, architectures.ANCHORS),
    Variant("yolov3_tiny", YOLOV3, architectures.yolov3_tiny, architectures.TINY_ANCHORS),
    Variant(
        "yolov4_tiny",
        YOLOV4,
        architectures.yolov4_tiny,
        architectures.TINY_ANCHORS,
        head={"scale_x_y": 1.05},
        box_loss="ciou",
        box_weight=0.07,
    ),
)


def _build_cfg(
    *,
    num_classes: int,
    cfg: str,
    tree: str = "",
    map: str = "",
    hier_threshold: float = 0.5,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.45,
    detections_per_image: int = 100,
    clip: bool = False,
) -> DarknetDetector:
    """`tree` and `map` are what a [region] section names so, see `yolo9000`. `clip` ends the boxes at the image's border."""
    selection = Selection(score_threshold, nms_threshold, detections_per_image, clip)
    network = DarknetDetector(parse(cfg), selection, tree=word_tree(tree, map, hier_threshold))
    if network.labels != num_classes:
        raise ModelError(f"the cfg has {network.labels} classes; {num_classes} labels were given (no background here)")
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
        sizes = read_anchors(anchors) if anchors else variant.anchors
        keys = loss_keys(variant.kind, box_loss, box_weight, ignore_threshold)
        plan = Plan(num_classes, input_size, width, sizes, {**variant.head, **keys})
        selection = Selection(score_threshold, nms_threshold, detections_per_image, clip)
        return DarknetDetector(variant.sections(plan), selection, burn_in)

    return build


def _spec(variant: Variant) -> ModelSpec:
    return ModelSpec(
        name=variant.name,
        task="detection",
        build=_builder(variant),
        input_rule=input_rule,
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
        input_rule=input_rule,
        paper=YOLOV3,
        background=False,
        text_options=("cfg", "tree", "map"),
        score_option="score_threshold",
    ),
    *(_spec(variant) for variant in VARIANTS),
    yolo9000.SPEC,
)
