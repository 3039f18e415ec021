"""How each trainable network overfits eight drawn images; test_overfit.py runs them, each in a minute or a few.

The images are 128 pixels wide: discs, squares and triangles, one to five each. Detectors and instance models learn the
boxes (and masks), semantic ones the class masks. To try one alone::

    pytest -m long tests/training/test_overfit.py -k fcos_small -s
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Overfit:
    """Options of the network, and of its training."""

    options: Mapping[str, object] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    """Fields of TrainConfig other than the test's own."""
    objects: int | None = None
    """Draw images with exactly that many shapes; None = one to five."""


TREES = Path(__file__).parent / "trees"
"""Discs are round, squares and triangles angular."""
NINE, SIX = "16,16,20,20,24,24,28,28,32,32,36,36,40,40,46,46,54,54", "18,18,24,24,30,30,36,36,42,42,50,50"
YOLO: Mapping[str, object] = {"input_size": 128}
SLOWLY: Mapping[str, Any] = {"epochs": 80, "learning_rate": 2e-3, "batch_size": 4}
MOBILE: Mapping[str, object] = {"backbone": "mobilenet_v2", "min_size": 256, "max_size": 256}
ANCHORS: Mapping[str, object] = {"smallest_anchor": 32, "anchor_sizes": 3, "proposals": 100}
WINDOWS: Mapping[str, object] = {
    "backbone": "mobilenet_v2",
    "window": 32,
    "hidden": 128,
    "samples": 256,
    "min_size": 128,
    "max_size": 128,
    "nms_threshold": 0.2,
    "scales": "1.6,1.36,1.15,0.98,0.83,0.7,0.6",
}
R50: Mapping[str, object] = {"min_size": 128, "max_size": 128}
R50_REGIONS: Mapping[str, object] = {**R50, "regions_per_image": 64}
MOBILE_REGIONS: Mapping[str, object] = {"min_size": 256, "max_size": 256, "regions_per_image": 64}
FROM_NOTHING: Mapping[str, Any] = {"epochs": 60, "learning_rate": 1e-3, "batch_size": 4}
LONGER: Mapping[str, Any] = {**FROM_NOTHING, "epochs": 200}
NARROW_VGG: Mapping[str, object] = {"backbone": "vgg16_bn", "width": 16, "head_width": 64}
MOBILE_ENCODER: Mapping[str, object] = {"encoder": "mobilenet_v2", "width": 64}
BRISKLY: Mapping[str, Any] = {"epochs": 80, "learning_rate": 6e-3, "batch_size": 4}
OF_128_PIXELS: Mapping[str, object] = {"aux_loss": False, "min_size": 128}

OVERFITS: dict[str, Overfit] = {
    "cornernet": Overfit(
        {"stacks": 1, "width": 32, "depth": 3, "blocks": 1, "image_size": 128},
        {"epochs": 150, "learning_rate": 2e-3, "batch_size": 4},
    ),
    "detr": Overfit(
        {
            "backbone": "resnet18",
            "stride": 16,
            "frozen": False,
            "layers": 2,
            "width": 64,
            "heads": 4,
            "feedforward": 256,
            "queries": 20,
            "dropout": 0.0,
            "min_size": 128,
            "max_size": 128,
        },
        {"epochs": 400, "learning_rate": 1e-3, "batch_size": 8, "clip_norm": 1.0},
    ),
    "efficientdet": Overfit(
        {"image_size": 128, "width": 32, "cells": 2, "depth": 2, "anchor_scale": 3.0},
        {"epochs": 160, "learning_rate": 3e-3, "batch_size": 4},
    ),
    "fcos": Overfit(
        {"backbone": "mobilenet_v2", "width": 64, "convolutions": 2, "levels": 3, "min_size": 128, "max_size": 256},
        {"epochs": 80, "learning_rate": 2e-3, "batch_size": 4},
    ),
    "convolutional_classifier": Overfit({**WINDOWS, "stride": 4}, {**SLOWLY, "epochs": 50}),
    "localiser": Overfit(
        {"backbone": "mobilenet_v2", "objects": 2, "image_size": 128, "hidden": 256, "score_threshold": 0.5},
        {"epochs": 150, "learning_rate": 1e-3, "batch_size": 8},
        objects=2,
    ),
    "overfeat": Overfit(
        {
            **{key: value for key, value in WINDOWS.items() if key != "nms_threshold"},
            "stride": 8,
            "scales": "1.4,1,0.7",
        },
        {**SLOWLY, "epochs": 60},
    ),
    "sliding_window": Overfit({**WINDOWS, "stride": 4, "features_stride": 8, "samples": 96}, {**SLOWLY, "epochs": 60}),
    "fasterrcnn_mobilenet_v3_large_320_fpn": Overfit(MOBILE_REGIONS, SLOWLY),
    "fasterrcnn_mobilenet_v3_large_fpn": Overfit(MOBILE_REGIONS, SLOWLY),
    "fasterrcnn_resnet50_fpn": Overfit(R50_REGIONS, FROM_NOTHING),
    "fasterrcnn_resnet50_fpn_v2": Overfit(R50_REGIONS, FROM_NOTHING),
    "fcos_resnet50_fpn": Overfit(R50, LONGER),
    "maskrcnn_resnet50_fpn": Overfit(R50_REGIONS, FROM_NOTHING),
    "maskrcnn_resnet50_fpn_v2": Overfit(R50_REGIONS, FROM_NOTHING),
    "retinanet_resnet50_fpn": Overfit(R50, LONGER),
    "retinanet_resnet50_fpn_v2": Overfit(R50, LONGER),
    "ssd300_vgg16": Overfit({}, {"epochs": 40, "learning_rate": 2e-4, "batch_size": 2}),
    # Its norms' statistics follow with a momentum of 0.03: after 150 steps a hundredth of where they began is left, too much.
    "ssdlite320_mobilenet_v3_large": Overfit({}, {**SLOWLY, "epochs": 200}),
    "fast_rcnn": Overfit({**MOBILE, "hidden": 128, "dropout": 0.0, "search": "single"}, SLOWLY),
    "fcos_small": Overfit(training={"epochs": 60, "learning_rate": 4e-3, "batch_size": 4}),
    "light_head_rcnn": Overfit(
        {**MOBILE, **ANCHORS, "parts": 5, "thin": 8, "kernel": 7, "middle": 32, "hidden": 128}, SLOWLY
    ),
    "rcnn": Overfit(
        {"backbone": "resnet18", "side": 64, "search": "single", "svm_cost": 0.1, "ridge": 10.0}, {"epochs": 1}
    ),
    "rfcn": Overfit({**MOBILE, **ANCHORS, "parts": 3, "width": 128, "aligned": True}, SLOWLY),
    "hourglass": Overfit(
        {"stacks": 2, "width": 32, "depth": 3}, {"epochs": 100, "learning_rate": 3e-3, "batch_size": 4}
    ),
    "deconvnet": Overfit({**NARROW_VGG, "stages": 2}, {**BRISKLY, "learning_rate": 1e-2}),
    "deeplabv3_mobilenet_v3_large": Overfit({"aux_loss": False, "min_size": 256}, {**BRISKLY, "epochs": 160}),
    "deeplabv3_resnet50": Overfit(OF_128_PIXELS, {**BRISKLY, "learning_rate": 2e-3}),
    "deeplabv3plus": Overfit(MOBILE_ENCODER, BRISKLY),
    "dilatednet": Overfit({**NARROW_VGG, "backbone": "vgg11_bn"}, {**BRISKLY, "epochs": 160}),
    "fcn_resnet50": Overfit(OF_128_PIXELS, {**BRISKLY, "learning_rate": 2e-3}),
    "fcn16s": Overfit(NARROW_VGG, {**BRISKLY, "epochs": 120}),
    "fcn32s": Overfit(NARROW_VGG, {**BRISKLY, "epochs": 300, "image_size": (256, 256)}),
    "fcn8s": Overfit(NARROW_VGG, {**BRISKLY, "epochs": 60}),
    "fpn": Overfit(MOBILE_ENCODER, {**BRISKLY, "epochs": 60}),
    "frrn_a": Overfit({"width": 8, "residual": 8}, {**BRISKLY, "epochs": 30, "learning_rate": 1e-2}),
    "gcn": Overfit({"backbone": "resnet18"}, {**BRISKLY, "epochs": 50}),
    "lraspp_mobilenet_v3_large": Overfit({"min_size": 256}, BRISKLY),
    "parsenet": Overfit({**NARROW_VGG, "backbone": "vgg11_bn", "head_width": 128}, {**BRISKLY, "epochs": 240}),
    "patch_classifier": Overfit({"stages": 2, "width": 16, "hidden": 64}, BRISKLY),
    "pspnet": Overfit(MOBILE_ENCODER, BRISKLY),
    "segnet": Overfit(
        {"backbone": "vgg16_bn", "width": 8, "stages": 3}, {**BRISKLY, "epochs": 160, "learning_rate": 1e-2}
    ),
    "unet": Overfit({"width": 8, "depth": 3}, {**BRISKLY, "epochs": 60, "learning_rate": 4e-3}),
    "unetplusplus": Overfit({**MOBILE_ENCODER, "width": 4}, {**BRISKLY, "epochs": 160}),
    "yolo_v1": Overfit(
        {"backbone": "resnet18", "input_size": 112, "width": 0.125, "hidden": 256, "dropout": 0.0},
        {"epochs": 80, "batch_size": 4},
    ),
    "yolov2": Overfit({**YOLO, "width": 0.25, "anchors": "20,20,28,28,36,36,46,46"}, SLOWLY),
    "yolov2_tiny": Overfit({**YOLO, "width": 0.25, "anchors": "20,20,28,28,36,36,46,46"}, SLOWLY),
    "yolo9000": Overfit(
        {
            **YOLO,
            "width": 0.25,
            "anchors": "20,20,28,28,36,36,46,46",
            "tree": TREES / "shapes.tree",
            "map": TREES / "shapes.map",
        },
        SLOWLY,
    ),
    "yolov3": Overfit({**YOLO, "width": 0.25, "anchors": NINE}, SLOWLY),
    "yolov3_spp": Overfit({**YOLO, "width": 0.25, "anchors": NINE}, SLOWLY),
    "yolov3_tiny": Overfit({**YOLO, "width": 0.5, "anchors": SIX}, SLOWLY),
    "yolov4_tiny": Overfit({**YOLO, "width": 0.5, "anchors": SIX}, SLOWLY),
}
