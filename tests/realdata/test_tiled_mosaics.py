"""Large images in tiles: mosaics of COCO images, an object at every seam, scored against the truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.inference.options import InferenceConfig
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, predict

pytestmark = pytest.mark.realdata
CELL, COLUMNS, ROWS, MOSAICS = 640, 2, 2, 24
AP, AP_LARGE = 0.0968, 0.2099
"""Without joined parts 0.0898 and 0.1828."""
SHIFT = 300
"""Of the cells to the right and downwards, so that the seams of tiles of 640 pixels run through the photos' middles."""
HEIGHT, WIDTH = ROWS * CELL + SHIFT, COLUMNS * CELL + SHIFT


def mosaic(images: list[dict[str, Any]], photos: Path) -> np.ndarray:
    """The photos in a grid of cells, row by row."""
    canvas = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for place, image in enumerate(images):
        top, left = place // COLUMNS * CELL + SHIFT, place % COLUMNS * CELL + SHIFT
        pixels = np.array(Image.open(photos / image["file_name"]).convert("RGB"))
        canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return canvas


@pytest.fixture(scope="module")
def warehouse(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("mosaics")
    (folder / "images").mkdir()
    source = realdata / "coco2017-subset"
    truth = json.loads((source / "annotations" / "instances_val2017.json").read_text())
    images, boxes = [], []
    chosen = truth["images"][: MOSAICS * COLUMNS * ROWS]
    for number in range(1, MOSAICS + 1):
        group = chosen[(number - 1) * COLUMNS * ROWS : number * COLUMNS * ROWS]
        name = f"{number:02d}.png"
        Image.fromarray(mosaic(group, source / "val2017")).save(folder / "images" / name, compress_level=1)
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for place, image in enumerate(group):
            shift = np.array([place % COLUMNS * CELL + SHIFT, place // COLUMNS * CELL + SHIFT, 0, 0])
            for old in truth["annotations"]:
                if old["image_id"] == image["id"] and not old["iscrowd"]:
                    moved = {"image_id": number, "bbox": (np.array(old["bbox"]) + shift).tolist(), "segmentation": []}
                    boxes.append(old | moved)
    document = {"images": images, "annotations": boxes, "categories": truth["categories"]}
    (folder / "truth.json").write_text(json.dumps(document))
    root, where = (
        str(folder / "warehouse"),
        {"images": str(folder / "images"), "annotations": str(folder / "truth.json")},
    )
    assert ingest(IngestConfig("mosaics", warehouse=root, **where), LocalExecutor()).images == MOSAICS
    return root


def test_objects_at_the_seams_are_found_once(realdata: Path, warehouse: str) -> None:
    weights = realdata.parent / "weights"
    option = (f"cfg={weights}/yolo-fastest-1.1.cfg", "nms_threshold=0.45", "detections_per_image=100")
    files = {"weights": f"{weights}/yolo-fastest-1.1.weights", "labels": f"{weights}/coco.names"}
    network = NetworkConfig(model="darknet", option=option, score_threshold=0.001, **files)
    tiles = InferenceConfig(tile=640, overlap=64)
    predict(
        PredictConfig("mosaics", network=network, inference=tiles, precision="fp32", run="tiled", warehouse=warehouse),
        LocalExecutor(),
    )
    scored = evaluate(EvaluateConfig("tiled", warehouse=warehouse), LocalExecutor())
    figures = {metric: value for task, metric, value in scored.summary() if task == "bbox"}
    assert figures["AP"] == pytest.approx(AP, abs=0.002)
    assert figures["APlarge"] == pytest.approx(AP_LARGE, abs=0.005)
