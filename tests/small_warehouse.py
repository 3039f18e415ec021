"""A small warehouse in its real layout, made by the real writers: a dataset, committed runs, and one not committed."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from shardlens.pipeline import masks, storage
from shardlens.pipeline.masks.rle import Rle
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.layout import Warehouse, to_json
from shardlens.pipeline.warehouse.runs import RunRecord

SIZE = (40, 60)  # height, width of every image
CATEGORIES = {1: "circle", 3: "square", 7: "star"}


def create(root: str) -> Warehouse:
    warehouse = Warehouse(root)
    warehouse.create()
    return warehouse


def add_dataset(warehouse: Warehouse, name: str = "shapes", images: int = 6, version: str = "v2") -> None:
    rows: dict[str, tuple[pa.Schema, list[dict[str, Any]]]] = {
        "images": (tables.IMAGES, [_image(i) for i in range(1, images + 1)]),
        "annotations": (tables.ANNOTATIONS, [_annotation(i) for i in range(1, images + 1)]),
        "categories": (tables.CATEGORIES, [{"category_id": k, "name": v} for k, v in CATEGORIES.items()]),
    }
    root = warehouse.dataset(name, version)
    for part, (schema, found) in rows.items():
        storage.publish(storage.join(root, f"{part}.parquet"), tables.to_bytes(tables.from_rows(found, schema)))
    describe(warehouse, name, version, images, images)


def describe(warehouse: Warehouse, name: str, version: str, images: int, annotations: int) -> None:
    """Write dataset.json of a version that no ingest made, and point to it."""
    counts = {"images": images, "annotations": annotations, "splits": [{"split": None, "images": images}]}
    document = {"name": name, "version": version, **counts, "sources": []}
    storage.publish(storage.join(warehouse.dataset(name, version), "dataset.json"), to_json(document))
    storage.publish(
        storage.join(warehouse.dataset(name), "latest.json"), to_json({"version": version, "removed": None})
    )


def _image(image_id: int) -> dict[str, Any]:
    name = f"pictures/{image_id:03d}.png"
    return {"image_id": image_id, "file_name": name, "uri": f"/{name}", "width": 60, "height": 40, "flags": []}


def _annotation(image_id: int) -> dict[str, Any]:
    plain = {"iscrowd": False, "ignore": False, "flags": [], "kind": "box", "category_id": 1, "category": "circle"}
    box = {"x": 1.0, "y": 2.0, "width": 10.0, "height": 5.0}
    return {"annotation_id": image_id * 10, "image_id": image_id, "bbox": box, "area": 50.0, **plain}


def row(image_id: int, rank: int, score: float, rle: Rle | None = None, **other: Any) -> dict[str, Any]:
    """A prediction of a circle, as a box 0.1, 2, 10.3, 5, or as the mask given."""
    box = dict(zip(("x", "y", "width", "height"), (0.1, 2.0, 10.3, 5.0), strict=True))
    plain = {"image_id": image_id, "rank": rank, "category_id": 1, "category": "circle", "kind": "box"}
    drawn = None if rle is None else {"size": [rle.height, rle.width], "counts": rle.counts}
    return {**plain, "score": score, "bbox": box, "area": 51.5, "segmentation": drawn, **other}


def blob(x: int, y: int, width: int, height: int) -> Rle:
    """A filled rectangle in an image of the usual size."""
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return masks.from_polygons([corners], *SIZE)


def begin(warehouse: Warehouse, name: str, shards: int, dataset: str = "shapes", **settings: Any) -> RunRecord:
    settings = {"model": "tiny", "task": "detection", "labels": list(CATEGORIES.values()), **settings}
    return runs.begin(RunRecord(warehouse, name, dataset, "v2", settings, shards, {}))


def publish(record: RunRecord, shard: int, images: list[int], rows: list[dict[str, Any]], generation: int = 0) -> Any:
    counts = {image: sum(r["image_id"] == image for r in rows) for image in images}
    outcomes = [{"image_id": i, "status": "ok", "predictions": counts[i]} for i in images]
    made = tables.from_rows(rows, tables.PREDICTIONS), tables.from_rows(outcomes, tables.OUTCOMES)
    return runs.publish(record, shard, *made, generation)


def add_run(
    warehouse: Warehouse, name: str, scores: list[list[float]], dataset: str = "shapes", **settings: Any
) -> RunRecord:
    """Commit a run with a list of scores for each image; two images form a shard."""
    record = begin(warehouse, name, -(-len(scores) // 2), dataset, **settings)
    parts = []
    for shard in range(record.shards):
        images = [image for image in (2 * shard + 1, 2 * shard + 2) if image <= len(scores)]
        rows = [row(i, rank, score) for i in images for rank, score in enumerate(scores[i - 1])]
        parts.append(publish(record, shard, images, rows))
    return runs.commit(record, parts, {"seconds": 1.5})


def add_metrics(warehouse: Warehouse, run: str, value: float, dataset: str = "shapes") -> None:
    plain = {"run": run, "dataset": dataset, "task": "bbox"}
    metrics = tables.from_rows([{**plain, "metric": "AP", "value": value, "support": 6}], tables.METRICS)
    point = {**plain, "category_id": 1, "category": "circle", "iou": 0.5, "recall": 0.0, "precision": 1.0}
    storage.publish(storage.join(warehouse.metrics(dataset, run), "metrics.parquet"), tables.to_bytes(metrics))
    curves = tables.to_bytes(tables.from_rows([point], tables.CURVES))
    storage.publish(storage.join(warehouse.curves(dataset, run), "curves.parquet"), curves)


def add_training(warehouse: Warehouse, run: str, losses: list[float], whole: bool = True) -> None:
    """A training run of two steps an epoch, validated after each epoch."""
    named, folder = {"run": run, "dataset": "shapes"}, warehouse.checkpoints(run)
    plain = {**named, "images": 8, "learning_rate": 0.1, "gradient_norm": 1.0, "seconds": 2.0, "wait_seconds": 0.5}
    plain |= {"images_per_second": 4.0, "learning_rates": [("head", 0.1), ("backbone", 0.01)]}
    steps = [
        {**plain, "epoch": i // 2 + 1, "step": i + 1, "loss": x, "parts": [("box", x)]} for i, x in enumerate(losses)
    ]
    scores = [
        {
            **named,
            "task": "bbox",
            "metric": "AP50",
            "value": 0.1 * epoch,
            "support": 6,
            "epoch": epoch,
            "step": 2 * epoch,
        }
        for epoch in range(1, len(losses) // 2 + 1)
    ]
    for name, rows, schema in (("training", steps, tables.TRAINING), ("metrics", scores, tables.METRICS)):
        storage.publish(storage.join(folder, f"{name}.parquet"), tables.to_bytes(tables.from_rows(rows, schema)))
    if whole:
        storage.publish(storage.join(folder, "train.json"), to_json(named))


def committed_json(record: RunRecord) -> Any:
    return json.loads(storage.read(storage.join(record.folder, "commit.json")))
