"""Every network of the zoo at a size that a laptop trains in a second, for the tests that run over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Value = int | float | str | bool


@dataclass(frozen=True)
class Small:
    """How to build a network small, and what the tester is to know of it."""

    options: Mapping[str, Value] = field(default_factory=dict)
    without_gradient: tuple[str, ...] = ()
    """Beginnings of the names of trainable parameters that a step with objects rightly leaves without a gradient."""


YOLO: Mapping[str, Value] = {"width": 0.125, "input_size": 64, "score_threshold": 0.001}

SMALL: dict[str, Small] = {
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
    "segnet": Small({"width": 4}),
    "unet": Small({"depth": 2, "width": 16}),
    "yolov2": Small(YOLO),
    "yolov2_tiny": Small(YOLO),
    "yolov3": Small(YOLO),
    "yolov3_spp": Small(YOLO),
    "yolov3_tiny": Small(YOLO),
    "yolov4_tiny": Small(YOLO),
}
