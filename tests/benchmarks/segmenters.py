"""Segmenters side by side: an equal budget of computing time each, from random weights, on membranes and on nuclei.

``python -m tests.benchmarks.segmenters MINUTES [NAME...]`` prints Dice, IoU, ms per image and parameters; for nuclei also the AP
of instances that are the connected parts of what was predicted. Where U-Net's border weights need separate objects
(nuclei), U-Net is trained with them too. The budget counts minutes of one core, not of the clock: an epoch is
timed first, then as many are trained as fit. All networks are small variants, of one width or the smallest encoder.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from models import build, find
from models.options import Value
from pipeline.datasets import IngestConfig, ingest
from pipeline.evaluate import EvaluateConfig, evaluate
from pipeline.executors import open_executor
from pipeline.inference import InferenceConfig
from pipeline.networks import NetworkConfig
from pipeline.predict import PredictConfig, predict
from tests.benchmarks.budget import Entry, fit, milliseconds, plain

REALDATA = Path(os.environ.get("SHARDLENS_REALDATA", "../shared/data"))
VGG: Mapping[str, Value] = {"backbone": "vgg11_bn", "width": 16}
NUCLEI = "dsb2018-200"


ENTRIES = {
    "FCN-8s": Entry("fcn8s", {**VGG, "head_width": 64}),
    "SegNet": Entry("segnet", VGG),
    "DeconvNet": Entry("deconvnet", {**VGG, "head_width": 64}),
    "U-Net": Entry("unet", {"width": 16}),
    "U-Net, border weights": Entry("unet", {"width": 16}, {"border_weight": 10.0}),
    "U-Net++": Entry("unetplusplus", {"encoder": "mobilenet_v2", "width": 8}),
    "PSPNet": Entry("pspnet", {"encoder": "mobilenet_v2", "width": 64}),
    "GCN": Entry("gcn", {"backbone": "mobilenet_v3_small"}),
    "FRRN-A": Entry("frrn_a", {"width": 8, "residual": 8}),
    "DeepLabV3": Entry("deeplabv3_mobilenet_v3_large", {"aux_loss": False}, {"image_size": (256, 256)}),
}


def compare(dataset: str, minutes: float, names: list[str], warehouse: str) -> None:
    """Train and score the networks called `names`, and print a line for each."""
    print(f"\n{dataset}, {minutes:g} minutes of one core each")
    print(f"{'':22s} {'epochs':>6s} {'Dice':>6s} {'IoU':>6s} {'AP':>6s} {'AP50':>6s} {'ms':>6s} {'parameters':>11s}")
    for name in names:
        entry = ENTRIES[name]
        if entry.training.get("border_weight") and dataset != NUCLEI:
            continue
        epochs, checkpoint = fit(dataset, entry, minutes, f"{dataset}-{name}", warehouse)
        scores = score(dataset, checkpoint, f"{dataset}-{name}", warehouse)
        figures = " ".join(f"{value:6.3f}" if value is not None else "     -" for value in scores)
        model = build(entry.model, 2, dict(entry.options))
        size = sum(p.numel() for p in model.parameters())
        side = 256 if dataset == NUCLEI else 512
        print(
            f"{name:22s} {epochs:6d} {figures} {milliseconds(model, torch.rand(1, 3, side, side)):6.0f} {size:11,d}",
            flush=True,
        )


def score(dataset: str, checkpoint: str, run: str, warehouse: str) -> list[float | None]:
    """Dice and IoU on the validation split; AP and AP50 of connected parts where the truth has objects."""
    found: dict[tuple[str, str], float | None] = {}
    network = NetworkConfig(weights=checkpoint)
    for components in (False, True) if dataset == NUCLEI else (False,):
        name = plain(f"{run}-parts" if components else run)
        inference = InferenceConfig(components=components, min_area=16 if components else 0)
        asked = PredictConfig(
            dataset, network=network, inference=inference, run=name, split="val", precision="fp32", warehouse=warehouse
        )
        with open_executor() as executor:
            predict(asked, executor)
            rows = evaluate(EvaluateConfig(name, warehouse=warehouse), executor).summary()
        found |= {(task, metric): value for task, metric, value in rows if (task, metric) not in found}
    return [found.get(key) for key in (("semantic", "Dice"), ("semantic", "IoU"), ("segm", "AP"), ("segm", "AP50"))]


def main() -> None:
    """Compare on both datasets."""
    minutes, names = float(sys.argv[1]), sys.argv[2:] or list(ENTRIES)
    assert all(find(ENTRIES[name].model) for name in names)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as warehouse:
        for dataset in ("isbi-membrane", NUCLEI):
            classes = "nucleus" if dataset == NUCLEI else None  # a white pixel is a cell
            with open_executor() as executor:
                ingest(
                    IngestConfig(dataset, images=str(REALDATA / dataset), classes=classes, warehouse=warehouse),
                    executor,
                )
            compare(dataset, minutes, names, warehouse)


if __name__ == "__main__":
    main()
