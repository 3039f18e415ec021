"""Things and stuff on drawn images: `train`, `predict` and `evaluate` of Panoptic FPN."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shardlens.flows.synthetic_shapes import draw_dataset
from shardlens.pipeline import masks, storage
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.inference.options import InferenceConfig, resolve_plan
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.masks.panoptic import rebuild
from shardlens.pipeline.networks.resolve import NetworkConfig, load_network, resolve
from shardlens.pipeline.predict import PredictConfig, predict
from shardlens.pipeline.train import TrainConfig, train
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.layout import Warehouse

SIDE = 64
SMALL = (
    "stuff=sky,ground",
    "backbone=resnet18",
    "width=32",
    "hidden=128",
    "semantic_width=32",
    "min_size=128",
    "max_size=128",
    "stuff_area=60",
)


def add_stuff(folder: Path) -> None:
    """Tint the upper half of each image blue and the lower half brown, and annotate as sky and ground what shapes leave."""
    place = folder / "instances_train.json"
    document = json.loads(place.read_text())
    document["categories"] += [{"id": 4, "name": "sky"}, {"id": 5, "name": "ground"}]
    number = 1 + max(annotation["id"] for annotation in document["annotations"])
    for image in document["images"]:
        file = folder / "train" / "images" / image["file_name"]
        pixels, free = np.array(Image.open(file)), np.ones((SIDE, SIDE), bool)
        for annotation in document["annotations"]:
            if annotation["image_id"] == image["id"]:
                free &= masks.decode(masks.from_polygons(annotation["segmentation"], SIDE, SIDE)) == 0
        for category, rows, tint in ((4, slice(0, SIDE // 2), (0, 0, 120)), (5, slice(SIDE // 2, SIDE), (90, 60, 0))):
            region = np.zeros_like(free)
            region[rows] = free[rows]
            pixels[region] = pixels[region] // 2 + np.array(tint, np.uint8)
            rle = masks.encode(region)
            segmentation = {"size": [SIDE, SIDE], "counts": rle.counts}
            plain = {"id": number, "image_id": image["id"], "category_id": category, "iscrowd": 0}
            measured = {"bbox": list(masks.bbox(rle)), "area": masks.area(rle)}
            document["annotations"].append({**plain, **measured, "segmentation": segmentation})
            number += 1
        Image.fromarray(pixels).save(file)
    place.write_text(json.dumps(document))


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("panoptic")
    draw_dataset(folder / "scenes", {"train": 8}, size=SIDE)
    add_stuff(folder / "scenes")
    images, truth = str(folder / "scenes/train/images"), str(folder / "scenes/instances_train.json")
    with open_executor() as executor:
        place = str(folder / "warehouse")
        ingest(IngestConfig("scenes", images=images, annotations=truth, split="train", warehouse=place), executor)
    return place


def learn(warehouse: str, run: str, **settings: object) -> str:
    """Train and predict; gives the checkpoint."""
    given = {"flip": False, "batch_size": 4, **settings}
    trained = train(
        TrainConfig("scenes", model="panoptic_fpn", option=SMALL, run=f"{run}-training", warehouse=warehouse, **given)  # type: ignore[arg-type]
    )
    with open_executor() as executor:
        network = NetworkConfig(weights=trained.checkpoint)
        predict(PredictConfig("scenes", network=network, run=run, precision="fp32", warehouse=warehouse), executor)
    return trained.checkpoint


def check_rows(warehouse: str, run: str, checkpoint: str) -> int:
    """Every image's rows rebuild the map that the network gives; returns the number of segments."""
    record = runs.open_committed(Warehouse(warehouse), run)
    rows = [row for uri in record.prediction_parts() for row in tables.from_bytes(storage.read(uri)).to_pylist()]
    network = load_network(resolve(NetworkConfig(weights=checkpoint)))
    images = tables.from_bytes(
        storage.read(f"{warehouse}/datasets/scenes/{record.dataset_version}/images.parquet")
    ).to_pylist()
    for image in images:
        pixels = torch.from_numpy(np.array(Image.open(image["uri"]))).permute(2, 0, 1) / 255
        with torch.inference_mode():
            (given,) = network([pixels])
        mine = [row for row in rows if row["image_id"] == image["image_id"]]
        order = torch.argsort(-given["segment_scores"].double(), stable=True)
        rank = torch.zeros(len(order) + 1, dtype=torch.int64)
        rank[order + 1] = torch.arange(1, len(order) + 1)
        assert (rebuild(mine, SIDE, SIDE) == rank[given["panoptic"]].numpy()).all()
        assert [row["kind"] == "instance" for row in mine] == given["segment_things"][order].tolist()
    return len(rows)


def test_stuff_is_named_once_and_kept_with_the_checkpoint(warehouse: str) -> None:
    checkpoint = learn(warehouse, "short", epochs=1)
    network = resolve(NetworkConfig(weights=checkpoint))
    assert dict(network.options)["stuff"] == "4,5"
    check_rows(warehouse, "short", checkpoint)
    with pytest.raises(ConfigError, match="--tile is not for panoptic models such as panoptic_fpn"):
        resolve_plan(InferenceConfig(tile=32, overlap=8), network)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_things_and_stuff_are_learned_and_their_rows_are_the_map(warehouse: str) -> None:
    checkpoint = learn(warehouse, "learned", epochs=100, learning_rate=2e-3)
    segments = check_rows(warehouse, "learned", checkpoint)
    with open_executor() as executor:
        score = evaluate(EvaluateConfig("learned", warehouse=warehouse), executor)
    found = {(task, metric): value for task, metric, value in score.summary()}
    print("\n", segments, {key: value for key, value in found.items() if key[1] in {"PQ", "SQ", "RQ", "AP50", "Dice"}})
    assert segments > 16
    assert found["panoptic", "PQ"] >= 0.85
    assert found["semantic", "Dice"] >= 0.95
