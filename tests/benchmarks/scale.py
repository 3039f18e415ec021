"""A million images in ten thousand shards: plan, resume, commit, and a query over ten million rows in a thousand parts."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from shardlens.pipeline.annotations.assembly import Assembled
from shardlens.pipeline.annotations.publication import write_version
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, prepare
from shardlens.pipeline.query import query
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.datasets import advance
from shardlens.pipeline.warehouse.layout import Warehouse
from shardlens.pipeline.warehouse.runs import ShardParts
from tests.benchmarks.alone import alone, peak

MODEL = "tests.benchmarks.models:NOTHING"
IMAGES, SHARDS = 1_000_000, 10_000
ROWS, PARTS = 10_000_000, 1_000
ROUNDS = 3
SQL = "SELECT category, count(*), avg(score) FROM predictions WHERE score > 0.9 AND category = 'thing' GROUP BY ALL"
LIMITS = {"plan": 10.0, "resume check": 20.0, "query": 2.0, "query command": 2.0, "driver GB": 1.5}


def dataset(warehouse: str, images: int) -> None:
    """Rows of images that nobody reads."""
    numbers = np.arange(images)
    names = pa.array([f"{i:07d}.jpg" for i in numbers])
    columns = {
        "image_id": pa.array(numbers),
        "file_name": names,
        "uri": pa.array([f"s3://photos/{i:07d}.jpg" for i in numbers]),
        "width": pa.array(np.full(images, 640, np.int32)),
        "height": pa.array(np.full(images, 480, np.int32)),
        "flags": pa.array([[]] * images, pa.list_(pa.string())),
    }
    nulls = {f.name: pa.nulls(images, f.type) for f in tables.IMAGES if f.name not in columns}
    table = pa.table({f.name: (columns | nulls)[f.name] for f in tables.IMAGES}, schema=tables.IMAGES)
    content = Assembled(table, tables.ANNOTATIONS.empty_table(), tables.CATEGORIES.empty_table())
    place = Warehouse(warehouse)
    place.create()
    advance(place, "many", None, write_version(place, "many", content, []))


def asked(warehouse: str, images: int, shards: int) -> PredictConfig:
    network = NetworkConfig(model=MODEL, weights="random")
    return PredictConfig(
        "many", network=network, run="r", shard_size=images // shards, precision="fp32", warehouse=warehouse
    )


def fill(warehouse: str, images: int, shards: int, rows: int) -> None:
    """Publish every shard's parts, and `rows` predictions in all, as workers would."""
    job = prepare(asked(warehouse, images, shards))
    rng = np.random.default_rng(0)
    each = rows // shards
    for index, first in enumerate(range(0, images, images // shards)):
        ids = np.arange(first, first + images // shards)
        runs.publish(job.record, index, predictions(ids, each, rng), outcomes(ids, each // len(ids)))


def predictions(ids: np.ndarray, rows: int, rng: np.random.Generator) -> pa.Table:
    box = pa.StructArray.from_arrays([pa.array(rng.uniform(0, 480, rows)) for _ in range(4)], fields=list(tables.BBOX))
    columns = {
        "image_id": pa.array(np.repeat(ids, rows // len(ids))),
        "rank": pa.array(np.tile(np.arange(rows // len(ids), dtype=np.int32), len(ids))),
        "category": pa.array(["thing"] * rows),
        "kind": pa.array(["box"] * rows),
        "score": pa.array(rng.uniform(0, 1, rows)),
        "bbox": box,
        "area": pa.array(rng.uniform(0, 1e4, rows)),
    }
    nulls = {f.name: pa.nulls(rows, f.type) for f in tables.PREDICTIONS if f.name not in columns}
    return pa.table({f.name: (columns | nulls)[f.name] for f in tables.PREDICTIONS}, schema=tables.PREDICTIONS)


def outcomes(ids: np.ndarray, each: int) -> pa.Table:
    rows = len(ids)
    columns = {
        "image_id": pa.array(ids),
        "status": pa.array(["ok"] * rows),
        "predictions": pa.array(np.full(rows, each, np.int32)),
    }
    nulls = {f.name: pa.nulls(rows, f.type) for f in tables.OUTCOMES if f.name not in columns}
    return pa.table({f.name: (columns | nulls)[f.name] for f in tables.OUTCOMES}, schema=tables.OUTCOMES)


def timed(name: str, found: dict[str, float], call: Callable[[], Any], rounds: int = ROUNDS) -> Any:
    """What the last call gives; the median of its times is noted."""
    seconds, value = [], None
    for _ in range(rounds):
        value = None  # one at a time in memory
        begun = time.perf_counter()
        value = call()
        seconds.append(time.perf_counter() - begun)
    found[name] = round(statistics.median(seconds), 3)
    return value


def drive(warehouse: str) -> dict[str, float]:
    """What the driver of a large run does beside waiting: plan, look at what is there, commit."""
    found: dict[str, float] = {}
    job = timed("plan", found, lambda: prepare(asked(warehouse, IMAGES, SHARDS)))
    timed("walk the plan", found, lambda: sum(len(shard.images) for shard in job.shards))
    parts: dict[int, ShardParts] = timed("resume check", found, lambda: runs.present(job.record))
    assert len(parts) == SHARDS
    timed("commit", found, lambda: runs.commit(job.record, parts.values(), {}), rounds=1)
    found["driver GB"] = round(peak(), 2)
    return found


def ask(warehouse: str) -> dict[str, float]:
    """A filtered query over all rows, on a run that is committed: in this process, and as a command from its start."""
    found: dict[str, float] = {}
    job = prepare(asked(warehouse, PARTS * 100, PARTS))
    runs.commit(job.record, runs.present(job.record).values(), {})
    command = [
        sys.executable,
        "-c",
        "from shardlens.pipeline.cli import main; main()",
        "query",
        SQL,
        "--warehouse",
        warehouse,
    ]
    timed("query", found, lambda: query(warehouse, SQL))
    timed("query command", found, lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
    return found


def run() -> dict[str, float]:
    """Print each time beside its limit."""
    with tempfile.TemporaryDirectory() as folder:
        dataset(f"{folder}/wide", IMAGES)
        fill(f"{folder}/wide", IMAGES, SHARDS, IMAGES)
        found = alone(drive, f"{folder}/wide", forked=False)
        dataset(f"{folder}/deep", PARTS * 100)
        fill(f"{folder}/deep", PARTS * 100, PARTS, ROWS)
        found |= alone(ask, f"{folder}/deep")
    print(f"\n{IMAGES:,} images in {SHARDS:,} shards; query over {ROWS:,} rows in {PARTS:,} parts")
    print(f"medians of {ROUNDS}, but one commit")
    for name, value in found.items():
        unit = "" if name.endswith("GB") else " s"
        print(f"  {name:16}{value:8.2f}{unit}" + (f"   (limit {LIMITS[name]:g})" if name in LIMITS else ""))
    return found
