"""The main job on drawn shapes: ingest, train, predict, evaluate and query, with embedded Ray and Prefect and local files."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from shardlens.flows.artifacts import watched_by
from shardlens.flows.inference import Inference, dataset_inference
from shardlens.flows.stages import ingest
from shardlens.flows.synthetic_shapes import draw_dataset
from shardlens.pipeline.cli.console import Output, print_table, progress_bars
from shardlens.pipeline.cli.render import render
from shardlens.pipeline.executors.base import ExecutorConfig
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.ingest import IngestConfig
from shardlens.pipeline.predict import PredictConfig
from shardlens.pipeline.query import query
from shardlens.pipeline.train import TrainConfig

IMAGES = {"train": 200, "val": 60}
WORKERS = ExecutorConfig(kind="ray", workers="2:2")
SQL = """
SELECT run, category, count(*) AS predictions, round(avg(score), 3) AS mean_score,
       round(avg(bbox.width * bbox.height), 1) AS mean_box_area
FROM predictions
WHERE score > 0.5
GROUP BY ALL ORDER BY run, category
"""


def demo(*, folder: Annotated[str, Parameter(help="Where the drawn images and the warehouse go.")] = "demo") -> None:
    """Draw shapes, ingest them, train a detector and a segmenter, predict with both, score and query."""
    begun = time.monotonic()
    shapes, warehouse = Path(folder) / "shapes", str(Path(folder) / "warehouse")
    say(f"Drawing {sum(IMAGES.values())} images of discs, squares and triangles into {shapes}")
    draw_dataset(shapes, IMAGES)
    with open_executor(WORKERS), progress_bars() as bars, watched_by(bars):  # one Ray for all stages
        take_in(shapes, warehouse)
        say("Detector: training on two workers, predicting the held-out images, scoring")
        detection = detect(warehouse)
        say("Segmenter: the same")
        segmentation = segment(warehouse)
    show([detection, segmentation], warehouse)
    say(f"All of it took {time.monotonic() - begun:.0f} s. What was made:")
    for place in ("datasets", "checkpoints", "predictions", "metrics", "curves", "runs"):
        print(f"  {warehouse}/{place}")
    print(f'Ask for more:\n  shardlens query "SELECT * FROM runs" --warehouse {warehouse}')


def take_in(shapes: Path, warehouse: str) -> None:
    """Ingest the boxes (COCO JSON) and the class masks (PNG) as two datasets of two splits."""
    say("Ingesting them as COCO and as masks")
    for split in IMAGES:
        images, truth = str(shapes / split / "images"), str(shapes / f"instances_{split}.json")
        ingest(IngestConfig("shapes", images=images, annotations=truth, split=split, warehouse=warehouse))
    names = "disc,square,triangle"
    ingest(IngestConfig("shapes-masks", images=str(shapes), format="masks", classes=names, warehouse=warehouse))


def detect(warehouse: str) -> Inference:
    """Train FCOS on a light backbone, predict the held-out images on two workers, score."""
    train = TrainConfig(
        "shapes",
        model="fcos_small",
        epochs=16,
        batch_size=8,
        learning_rate=4e-3,
        run="detector-training",
        executor=WORKERS,
        warehouse=warehouse,
    )
    predict = PredictConfig("shapes", run="detector", split="val", shard_size=10, warehouse=warehouse)
    return dataset_inference(predict, train=train, executor=WORKERS, refresh=False)


def segment(warehouse: str) -> Inference:
    """Train a narrow U-Net, predict the held-out images on two workers, score."""
    train = TrainConfig(
        "shapes-masks",
        model="unet",
        option=("width=8", "depth=3"),
        epochs=14,
        batch_size=4,
        learning_rate=4e-3,
        run="segmenter-training",
        executor=WORKERS,
        warehouse=warehouse,
    )
    predict = PredictConfig("shapes-masks", run="segmenter", split="val", shard_size=10, warehouse=warehouse)
    return dataset_inference(predict, train=train, executor=WORKERS, refresh=False)


def show(results: Sequence[Inference], warehouse: str) -> None:
    """Print the metric tables, and what SQL says of the predictions."""
    for result in results:
        assert result.evaluation is not None, "the drawn datasets have annotations"
        rows = [{"task": task, "metric": name, "value": value} for task, name, value in result.evaluation.summary()]
        say(f"Run {result.prediction.run}, {result.prediction.images} held-out images")
        print_table(rows, Output())
    say(f"SQL over the predictions:{SQL.rstrip()}")
    print(render(query(warehouse, SQL), "table"))


def say(line: str) -> None:
    """Print a heading."""
    print(f"\n{line}", flush=True, file=sys.stdout)
