"""Every network of the zoo at a size that a laptop trains in a second, for the tests that run over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Value = int | float | str | bool


@dataclass(frozen=True)
class Small:
    """How to build a network small."""

    options: Mapping[str, Value] = field(default_factory=dict)


YOLO: Mapping[str, Value] = {"width": 0.125, "input_size": 64, "score_threshold": 0.001}
RESNET18: Mapping[str, Value] = {"backbone": "resnet18", "min_size": 64, "max_size": 96, "score_threshold": 0.001}
ANCHORS: Mapping[str, Value] = {"smallest_anchor": 16, "anchor_sizes": 2, "proposals": 50}

WINDOWS: Mapping[str, Value] = {**RESNET18, "window": 32, "stride": 8, "scales": "1,0.5", "hidden": 32}

SMALL: dict[str, Small] = {
    "convolutional_classifier": Small(WINDOWS),
    "overfeat": Small(WINDOWS),
    "sliding_window": Small(WINDOWS),
    "localiser": Small(
        {"backbone": "resnet18", "objects": 2, "image_size": 64, "hidden": 32, "score_threshold": 0.001}
    ),
    "cornernet": Small({"stacks": 2, "width": 16, "depth": 2, "blocks": 1, "image_size": 64, "score_threshold": 0.001}),
    "detr": Small(
        {
            "backbone": "resnet18",
            "frozen": False,
            "layers": 2,
            "width": 32,
            "heads": 4,
            "feedforward": 64,
            "queries": 10,
            "min_size": 64,
            "max_size": 96,
            "dropout": 0.0,
            "score_threshold": 0.001,
        }
    ),
    "efficientdet": Small(
        {"width": 16, "cells": 2, "depth": 1, "image_size": 64, "anchor_scale": 2.0, "score_threshold": 0.001}
    ),
    "fast_rcnn": Small({**RESNET18, "hidden": 32, "dropout": 0.0, "search": "single", "proposals": 200}),
    "fcos": Small(
        {
            "backbone": "mobilenet_v2",
            "width": 32,
            "convolutions": 1,
            "levels": 3,
            "min_size": 64,
            "score_threshold": 0.001,
        }
    ),
    "fcos_small": Small({"width": 16, "min_size": 64, "score_threshold": 0.001}),
    "deconvnet": Small({"width": 4, "head_width": 16}),
    "fcn32s": Small({"backbone": "vgg16_bn", "width": 4, "head_width": 16}),
    "fcn16s": Small({"backbone": "vgg16_bn", "width": 4, "head_width": 16}),
    "fcn8s": Small({"backbone": "vgg16_bn", "width": 4, "head_width": 16}),
    "light_head_rcnn": Small({**RESNET18, **ANCHORS, "parts": 3, "thin": 4, "kernel": 5, "middle": 8, "hidden": 32}),
    "rcnn": Small({"backbone": "resnet18", "side": 64, "search": "single", "proposals": 50, "score_threshold": 0.001}),
    "rfcn": Small({**RESNET18, **ANCHORS, "parts": 3, "width": 32}),
    "dilatednet": Small({"width": 4, "head_width": 16}),
    "parsenet": Small({"width": 4, "head_width": 16}),
    "gcn": Small({"backbone": "mobilenet_v3_small"}),
    "frrn_a": Small({"width": 4, "residual": 4}),
    "patch_classifier": Small({"stages": 2, "width": 4, "hidden": 8}),
    "segnet": Small({"width": 4}),
    "unetplusplus": Small({"encoder": "mobilenet_v2", "width": 2}),
    "pspnet": Small({"encoder": "mobilenet_v2", "width": 32}),
    "deeplabv3plus": Small({"encoder": "mobilenet_v2", "width": 16}),
    "fpn": Small({"encoder": "mobilenet_v2", "width": 64}),
    "panoptic_fpn": Small(
        {
            "stuff": "2",
            "backbone": "resnet18",
            "width": 16,
            "hidden": 32,
            "semantic_width": 16,
            "min_size": 64,
            "max_size": 96,
            "score_threshold": 0.001,
            "stuff_area": 16,
        }
    ),
    "hourglass": Small({"stacks": 2, "width": 16, "depth": 2}),
    "unet": Small({"depth": 2, "width": 16}),
    "yolov2": Small(YOLO),
    "yolov2_tiny": Small(YOLO),
    "yolov3": Small(YOLO),
    "yolov3_spp": Small(YOLO),
    "yolov3_tiny": Small(YOLO),
    "yolov4_tiny": Small(YOLO),
    "yolo9000": Small({**YOLO, "tree": "round -1\nangular -1\ndisc 0\nsquare 1\ntriangle 1\n", "map": "0\n2\n3\n4\n"}),
    "yolo_v1": Small(
        {
            "backbone": "resnet18",
            "width": 0.05,
            "hidden": 64,
            "dropout": 0.0,
            "input_size": 56,
            "score_threshold": 0.001,
        }
    ),
}
