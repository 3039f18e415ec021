"""Segmenters side by side: an equal budget of computing time each, from random weights, on membranes and on nuclei.

``python -m tests.benchmarks.segmenters MINUTES [--data NAME...] [--networks NAME...]`` trains and scores each network,
adds a line for it to `build/segmenters.jsonl`, and prints the table of all that is there for this budget; what is there
already is not done again. ``--table`` prints alone. The budget counts minutes of one core, not of the clock: two epochs
are timed first, then as many are trained as fit.

All networks are small variants, and learn alike: patches of 256 x 256, mirrored, cross entropy and soft Dice. Dice and
IoU are those of the cells and of the nuclei; of the membranes, which are thin, the background's Dice tells more. For
nuclei the connected parts of what was predicted are scored as objects too. ms is the computing time of one whole image
on one thread, from pixels to probabilities; it is taken when the table is printed, best while nothing else runs.
"""

from __future__ import annotations

import json
import os
import tempfile
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from shardlens.models import build, find
from shardlens.models.options import Value
from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.inference.options import InferenceConfig
from shardlens.pipeline.inference.semantic import Segmenter
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, predict
from shardlens.pipeline.query import query
from tests.benchmarks.budget import Entry, fit, milliseconds, plain

REALDATA = Path(os.environ.get("SHARDLENS_REALDATA", "../shared/data"))
RESULTS = Path("build/segmenters.jsonl")
MEMBRANES, NUCLEI = "isbi-membrane", "dsb2018-200"
CLASSES = {MEMBRANES: "cell", NUCLEI: "nucleus"}
SIDES = {MEMBRANES: 512, NUCLEI: 256}

COMMON: Mapping[str, Any] = {"learning_rate": 4e-3, "weight_decay": 1e-2, "flip_vertical": True, "crop": (256, 256)}
VGG: Mapping[str, Value] = {"backbone": "vgg11_bn", "width": 16}
ENTRIES = {
    "FCN-8s": Entry("fcn8s", {**VGG, "head_width": 64}, COMMON),
    "SegNet": Entry("segnet", VGG, COMMON),
    "DeconvNet": Entry("deconvnet", {**VGG, "head_width": 64}, COMMON),
    "U-Net": Entry("unet", {"width": 16}, COMMON),
    "U-Net, border weights": Entry("unet", {"width": 16}, {**COMMON, "border_weight": 10.0}),
    "U-Net++": Entry("unetplusplus", {"encoder": "mobilenet_v2", "width": 8}, COMMON),
    "PSPNet": Entry("pspnet", {"encoder": "mobilenet_v2", "width": 64}, COMMON),
    "GCN": Entry("gcn", {"backbone": "resnet18"}, COMMON),
    "FRRN-A": Entry("frrn_a", {"width": 8, "residual": 8}, COMMON),
    "DeepLabV3": Entry("deeplabv3_mobilenet_v3_large", {"aux_loss": False, "min_size": 0}, COMMON),
}


@dataclass(frozen=True)
class Result:
    """A line of the table."""

    dataset: str
    budget: float
    network: str
    epochs: int
    minutes: float
    """Of one core, that the epochs took."""
    dice: float | None
    iou: float | None
    background_dice: float | None
    ap: float | None = None
    ap50: float | None = None


def run(dataset: str, name: str, minutes: float, warehouse: str) -> Result:
    """Train a network for so many minutes, and score it on the validation split."""
    label = plain(f"{dataset}-{name}")
    fitted = fit(dataset, ENTRIES[name], minutes, label, warehouse)
    return Result(
        dataset,
        minutes,
        name,
        fitted.epochs,
        fitted.minutes,
        **pixel_scores(dataset, fitted.checkpoint, label, warehouse),
        **(object_scores(dataset, fitted.checkpoint, f"{label}-parts", warehouse) if dataset == NUCLEI else {}),
    )


def cost(entry: Entry, side: int) -> tuple[float, int]:
    """Milliseconds from a square image's pixels to its probabilities, as `shardlens predict` has them, and parameters."""
    model = build(entry.model, 2, dict(entry.options)).eval().to(memory_format=torch.channels_last)
    segmenter = Segmenter(((lambda batch: model(batch)["out"], find(entry.model).input_rule(model)),))
    return milliseconds(segmenter, [torch.rand(3, side, side)]), sum(p.numel() for p in model.parameters())


def pixel_scores(dataset: str, checkpoint: str, run: str, warehouse: str) -> dict[str, float | None]:
    """Dice and IoU of the one class, and Dice of what is not it, from the counts of pixels."""
    found = scored(dataset, checkpoint, run, warehouse, InferenceConfig())
    hits = (found["accuracy"][0] or 0.0) * found["accuracy"][1]
    right, pixels = (found["pixel_accuracy"][0] or 0.0) * found["pixel_accuracy"][1], found["pixel_accuracy"][1]
    other = 2 * (right - hits) / max(2 * (right - hits) + pixels - right, 1)
    return {"dice": found["Dice"][0], "iou": found["IoU"][0], "background_dice": other}


def object_scores(dataset: str, checkpoint: str, run: str, warehouse: str) -> dict[str, float | None]:
    """AP and AP50 of connected parts as objects."""
    found = scored(dataset, checkpoint, run, warehouse, InferenceConfig(components=True, min_area=16))
    return {"ap": found["AP"][0], "ap50": found["AP50"][0]}


def scored(
    dataset: str, checkpoint: str, run: str, warehouse: str, inference: InferenceConfig
) -> dict[str, tuple[float | None, int]]:
    """Value and support of each metric of masks on the validation split."""
    network = NetworkConfig(weights=checkpoint)
    asked = PredictConfig(
        dataset, network=network, inference=inference, run=run, split="val", precision="fp32", warehouse=warehouse
    )
    with open_executor() as executor:
        predict(asked, executor)
        evaluate(EvaluateConfig(run, warehouse=warehouse), executor)
    rows = query(
        warehouse,
        f"SELECT metric, value, support FROM metrics WHERE run = '{run}' AND category IS NULL AND task <> 'bbox'",
    )
    return {row["metric"]: (row["value"], row["support"]) for row in rows.to_pylist()}


def done() -> list[Result]:
    """What earlier calls found."""
    return [Result(**json.loads(line)) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def note(result: Result) -> None:
    """Keep a result at once: whatever stops the rest, it is not lost."""
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as lines:
        lines.write(json.dumps(asdict(result)) + "\n")


def table(results: Sequence[Result]) -> str:
    """The results of one dataset and budget as text."""
    heads = ("epochs", "minutes", "Dice", "IoU", "background", "AP", "AP50", "ms", "parameters")
    widths = (6, 7, 6, 6, 10, 6, 6, 6, 10)
    lines = [" ".join([" " * 22, *(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))])]
    for r in results:
        shares = (r.dice, r.iou, r.background_dice, r.ap, r.ap50)
        cells = [str(r.epochs), f"{r.minutes:.1f}", *(f"{share:.3f}" if share is not None else "-" for share in shares)]
        ms, parameters = cost(ENTRIES[r.network], SIDES[r.dataset])
        cells += [f"{ms:.0f}", f"{parameters:,d}"]
        lines.append(" ".join([f"{r.network:22s}", *(f"{c:>{width}}" for c, width in zip(cells, widths, strict=True))]))
    return "\n".join(lines)


def print_tables(minutes: float) -> None:
    """Print what is there for a budget, in the order of `ENTRIES`."""
    for dataset in SIDES:
        found = {r.network: r for r in done() if (r.dataset, r.budget) == (dataset, minutes)}
        if found:
            print(f"\n{dataset}, {minutes:g} minutes of one core each")
            print(table([found[name] for name in ENTRIES if name in found]))


def main() -> None:
    """Do what is asked for and not there yet."""
    parser = ArgumentParser(description="Segmenters side by side.")
    parser.add_argument("minutes", type=float)
    parser.add_argument("--data", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--networks", nargs="+", choices=list(ENTRIES), default=list(ENTRIES), metavar="NAME")
    parser.add_argument("--table", action="store_true", help="print what is there")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    there = {(r.dataset, r.budget, r.network) for r in done()}
    for dataset in () if asked.table else asked.data:
        names = [name for name in asked.networks if (dataset, asked.minutes, name) not in there]
        with tempfile.TemporaryDirectory() as warehouse:
            config = IngestConfig(
                dataset, images=str(REALDATA / dataset), classes=CLASSES[dataset], warehouse=warehouse
            )
            with open_executor() as executor:
                ingest(config, executor)
            for name in names:
                result = run(dataset, name, asked.minutes, warehouse)
                note(result)
                print(f"\n{dataset}\n{table([result])}", flush=True)
    print_tables(asked.minutes)


if __name__ == "__main__":
    main()
