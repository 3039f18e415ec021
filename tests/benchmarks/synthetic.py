"""A dataset of boxes or masks and a committed run over it, as large as one wishes, without images."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from shardlens.pipeline import masks
from shardlens.pipeline.annotations.assembly import Assembled
from shardlens.pipeline.annotations.publication import write_version
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, prepare
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.datasets import advance
from shardlens.pipeline.warehouse.layout import Warehouse

MODEL = "tests.benchmarks.models:NOTHING"
CATEGORIES = 80
HEIGHT, WIDTH = 480, 640


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(N, 4) x, y, width, height: many sizes, inside the image."""
    size = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
    corner = rng.uniform(0, 1, (count, 2)) * ((WIDTH, HEIGHT) - size).clip(0)
    return np.concatenate([corner, size], axis=1).round(1)


def near(rng: np.random.Generator, found: np.ndarray) -> np.ndarray:
    """The boxes, a bit off."""
    return (found + rng.normal(0, 0.08, found.shape) * np.tile(found[:, 2:], 2)).round(1)


def table(schema: pa.Schema, columns: dict[str, object], rows: int) -> pa.Table:
    nulls = {f.name: pa.nulls(rows, f.type) for f in schema if f.name not in columns}
    return pa.table({f.name: columns.get(f.name, nulls.get(f.name)) for f in schema}, schema=schema)


def bbox(found: np.ndarray) -> pa.Array:
    return pa.StructArray.from_arrays([pa.array(side) for side in found.T], fields=list(tables.BBOX))


def rles(found: np.ndarray) -> pa.Array:
    """A blob in each box, as RLE."""
    canvas, rows = np.zeros((HEIGHT, WIDTH), np.uint8), []
    for x, y, w, h in found.astype(int).tolist():
        place = canvas[max(y, 0) : y + max(h, 2), max(x, 0) : x + max(w, 2)]
        ys, xs = np.ogrid[: place.shape[0], : place.shape[1]]
        place[:] = ((ys - h / 2) / max(h, 2)) ** 2 + ((xs - w / 2) / max(w, 2)) ** 2 < 0.25
        rle = masks.encode(canvas)
        rows.append({"size": [HEIGHT, WIDTH], "counts": rle.counts})
        place[:] = 0
    return pa.array(rows, tables.RLE)


def make(warehouse: str, task: str, images: int, objects: int, found: int) -> None:
    """A dataset of `objects` in `images`, and a committed run of `found` predictions."""
    rng = np.random.default_rng(0)
    place = Warehouse(warehouse)
    place.create()
    truth, owners, labels = (
        boxes(rng, objects),
        np.sort(rng.integers(1, images + 1, objects)),
        rng.integers(0, CATEGORIES, objects),
    )
    names = np.array(["thing", *(f"kind {i}" for i in range(1, CATEGORIES))])
    ids = np.arange(1, images + 1)
    image_rows = {
        "image_id": pa.array(ids),
        "file_name": pa.array([f"{i}.jpg" for i in ids]),
        "uri": pa.array([f"memory://{i}.jpg" for i in ids]),
        "width": pa.array(np.full(images, WIDTH, np.int32)),
        "height": pa.array(np.full(images, HEIGHT, np.int32)),
        "flags": pa.array([[]] * images, pa.list_(pa.string())),
    }
    rows = {
        "annotation_id": pa.array(np.arange(1, objects + 1)),
        "image_id": pa.array(owners),
        "category_id": pa.array(labels + 1),
        "category": pa.array(names[labels]),
        "kind": pa.array(["box" if task == "bbox" else "instance"] * objects),
        "bbox": bbox(truth),
        "area": pa.array(truth[:, 2] * truth[:, 3]),
        "iscrowd": pa.array(rng.random(objects) < 0.01),
        "ignore": pa.array(np.zeros(objects, bool)),
        "flags": pa.array([[]] * objects, pa.list_(pa.string())),
    } | ({"segmentation": rles(truth)} if task == "segm" else {})
    categories = {"category_id": pa.array(np.arange(1, CATEGORIES + 1)), "name": pa.array(names)}
    content = Assembled(
        table(tables.IMAGES, image_rows, images),
        table(tables.ANNOTATIONS, rows, objects),
        table(tables.CATEGORIES, categories, CATEGORIES),
    )
    advance(place, "synthetic", None, write_version(place, "synthetic", content, []))
    network = NetworkConfig(model=MODEL, weights="random")
    job = prepare(
        PredictConfig("synthetic", network=network, run="r", shard_size=64, precision="fp32", warehouse=warehouse)
    )
    parts = []
    each = found // images
    for shard in job.shards:
        here = np.array([image.image_id for image in shard.images])
        parts.append(publish_shard(job.record, shard.index, here, each, (truth, owners, labels), names, rng, task))
    runs.commit(job.record, parts, {})


def publish_shard(record, index, here, each, known, names, rng, task):
    """Predictions: half near an object of the image, half anywhere."""
    truth, owners, labels = known
    rows = len(here) * each
    places, kinds = boxes(rng, rows), rng.integers(0, CATEGORIES, rows)
    for number, image in enumerate(here):
        first, last = np.searchsorted(owners, [image, image + 1])
        some = rng.integers(first, last, each // 2) if last > first else np.zeros(0, int)
        places[number * each : number * each + len(some)] = near(rng, truth[some])
        kinds[number * each : number * each + len(some)] = labels[some]
    scores = -np.sort(-rng.random((len(here), each)).round(3), axis=1).ravel()
    columns = {
        "image_id": pa.array(np.repeat(here, each)),
        "rank": pa.array(np.tile(np.arange(each, dtype=np.int32), len(here))),
        "category_id": pa.array(kinds + 1),
        "category": pa.array(names[kinds]),
        "kind": pa.array(["box" if task == "bbox" else "instance"] * rows),
        "score": pa.array(scores),
        "bbox": bbox(places),
        "area": pa.array(places[:, 2] * places[:, 3]),
    } | ({"segmentation": rles(places)} if task == "segm" else {})
    outcomes = {
        "image_id": pa.array(here),
        "status": pa.array(["ok"] * len(here)),
        "predictions": pa.array(np.full(len(here), each, np.int32)),
    }
    return runs.publish(
        record, index, table(tables.PREDICTIONS, columns, rows), table(tables.OUTCOMES, outcomes, len(here))
    )
