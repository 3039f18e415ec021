"""Detectors side by side on blood cells: an equal budget of computing time each.

``python -m tests.benchmarks.detectors MINUTES [NAME...]`` prints AP50 on the test images, ms per image and parameters. The
budget counts minutes of one core, not of the clock. All see the images at about 320 x 240; those that can stand on
mobilenet_v2 begin with its ImageNet weights, which the table says.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from shardlens.models import build
from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, predict
from tests.benchmarks.budget import Entry, fit, milliseconds, plain

REALDATA = Path(os.environ.get("SHARDLENS_REALDATA", "../shared/data"))
MOBILENET = str((REALDATA.parent / "weights/mobilenet_v2-b0353104.pth").resolve())
DATA = "bccd"
COMMON: dict[str, Any] = {"batch_size": 8, "scale": 0.2, "flip_vertical": True, "clip_norm": 5.0, "ema": 0.98}
FROM_IMAGENET = {**COMMON, "init": MOBILENET, "backbone_factor": 0.5}
SIZES = {"min_size": 240, "max_size": 320}

ENTRIES = {
    "FCOS, mobilenet_v2": Entry(
        "fcos", {"backbone": "mobilenet_v2", "width": 64, "convolutions": 2, "levels": 3, **SIZES}, FROM_IMAGENET
    ),
    "YOLO v1, mobilenet_v2": Entry(
        "yolo_v1",
        {"backbone": "mobilenet_v2", "hidden": 512, "dropout": 0.0, "input_size": 224, "width": 0.25},
        FROM_IMAGENET,
    ),
    "YOLO v3-tiny": Entry("yolov3_tiny", {"input_size": 320, "width": 0.5}, COMMON),
    "DETR, mobilenet_v2": Entry(
        "detr",
        {
            "backbone": "mobilenet_v2",
            "stride": 16,
            "frozen": False,
            "layers": 3,
            "width": 128,
            "heads": 8,
            "feedforward": 512,
            "queries": 40,
            "dropout": 0.0,
            **SIZES,
        },
        {**FROM_IMAGENET, "learning_rate": 5e-4, "clip_norm": 1.0},
    ),
    "CornerNet": Entry("cornernet", {"stacks": 1, "width": 32, "depth": 3, "blocks": 1, "image_size": 256}, COMMON),
    "EfficientDet": Entry(
        "efficientdet",
        {"backbone": "mobilenet_v2", "image_size": 256, "width": 48, "cells": 2, "depth": 2, "anchor_scale": 3.0},
        FROM_IMAGENET,
    ),
    "R-FCN, mobilenet_v2": Entry(
        "rfcn",
        {
            "backbone": "mobilenet_v2",
            "width": 128,
            "parts": 3,
            "smallest_anchor": 32,
            "anchor_sizes": 3,
            "proposals": 100,
            "aligned": True,
            **SIZES,
        },
        FROM_IMAGENET,
    ),
}


def compare(minutes: float, names: list[str], warehouse: str) -> None:
    """Train and score the networks called `names`, and print a line for each."""
    print(f"\n{DATA}, {minutes:g} minutes of one core each")
    print(f"{'':24s} {'begun with':>10s} {'epochs':>6s} {'AP50':>6s} {'AP':>6s} {'ms':>6s} {'parameters':>11s}")
    for name in names:
        entry = ENTRIES[name]
        fitted = fit(DATA, entry, minutes, name, warehouse)
        scores = score(fitted.checkpoint, plain(name), warehouse)
        model = build(entry.model, 4, dict(entry.options)).eval()
        size, spent = sum(p.numel() for p in model.parameters()), milliseconds(model, [torch.rand(3, 480, 640)])
        begun = "ImageNet" if "init" in entry.training else "nothing"
        print(
            f"{name:24s} {begun:>10s} {fitted.epochs:6d} {scores[0]:6.3f} {scores[1]:6.3f} {spent:6.0f} {size:11,d}",
            flush=True,
        )


def score(checkpoint: str, run: str, warehouse: str) -> tuple[float, float]:
    """AP50 and AP on the test images."""
    network = NetworkConfig(weights=checkpoint, score_threshold=0.01)
    asked = PredictConfig(DATA, network=network, run=run, split="test", precision="fp32", warehouse=warehouse)
    with open_executor() as executor:
        predict(asked, executor)
        rows = evaluate(EvaluateConfig(run, warehouse=warehouse), executor).summary()
    found = {metric: value or 0.0 for _, metric, value in rows}
    return found["AP50"], found["AP"]


def main() -> None:
    """Compare those that are named, or all."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as warehouse:
        with open_executor() as executor:
            ingest(IngestConfig(DATA, images=str(REALDATA / "bccd/BCCD"), format="voc", warehouse=warehouse), executor)
        compare(float(sys.argv[1]), sys.argv[2:] or list(ENTRIES), warehouse)


if __name__ == "__main__":
    main()
