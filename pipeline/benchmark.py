"""What bounds the speed of a run, measured where it is asked for: the constants of the README's stage model."""

from __future__ import annotations

import io
import operator
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from PIL import Image

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ExecutionError
from shardlens.pipeline.executors.base import Executor, Lost
from shardlens.pipeline.images.decode import decode
from shardlens.pipeline.images.fetch import FETCH_AT_ONCE
from shardlens.pipeline.images.policy import DecodePolicy
from shardlens.pipeline.images.shards import ImageRef, Shard
from shardlens.pipeline.warehouse import tables

IMAGES = 32
MEGAPIXELS = 0.3072
OBJECTS, OBJECT_BYTES = 64, 80_000
PARTS, ROWS = 5, 20_000
SHARDS, SHARD_IMAGES = 1_000, 64


@dataclass(frozen=True)
class Idle:
    """A stage that does nothing: what is left is the way there and back."""

    def setup(self) -> Callable[[Shard], int]:
        """Nothing to load."""
        return operator.attrgetter("index")


def decoding() -> float:
    """Seconds of one core to decode a megapixel of JPEG (640x480, quality 85, some 80 KB)."""
    rng = np.random.default_rng(0)
    pictures = [_photo(rng) for _ in range(4)]
    policy = DecodePolicy()
    decode(pictures[0], policy)
    begun = time.process_time()
    for number in range(IMAGES):
        decode(pictures[number % len(pictures)], policy)
    return (time.process_time() - begun) / IMAGES / MEGAPIXELS


def _photo(rng: np.random.Generator) -> bytes:
    """Smooth colors with some noise, about as large as a photo is as JPEG."""
    small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((640, 480), Image.Resampling.BICUBIC))
    noisy = np.clip(smooth + rng.integers(-20, 20, smooth.shape), 0, 255).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noisy).save(sink, "JPEG", quality=85)
    return sink.getvalue()


def fetching(root: str) -> tuple[float, float]:
    """Objects and megabytes a second that one worker reads from the store of `root`, as many at once as it fetches images.

    Raises:
        StorageError: the store cannot be written, read or emptied.
    """
    mark = f".shardlens-bench-{uuid.uuid4().hex}"
    places = [storage.join(root, f"{mark}-{number}") for number in range(OBJECTS)]
    data = bytes(OBJECT_BYTES)
    try:
        for place in places:
            storage.publish(place, data)
        begun = time.perf_counter()
        objects = []
        for first in range(0, OBJECTS, FETCH_AT_ONCE):
            objects += storage.read_many([(place, None, None) for place in places[first : first + FETCH_AT_ONCE]])
        seconds = time.perf_counter() - begun
    finally:
        for place in places:
            storage.delete(place)
    for data_or_error in objects:
        if not isinstance(data_or_error, bytes):
            raise data_or_error
    return OBJECTS / seconds, OBJECTS * OBJECT_BYTES / seconds / 1e6


def writing_rows() -> float:
    """Seconds of one core to make a million prediction rows into Parquet."""
    rng = np.random.default_rng(0)
    box = pa.StructArray.from_arrays([pa.array(rng.uniform(0, 480, ROWS)) for _ in range(4)], fields=list(tables.BBOX))
    columns = {
        "image_id": pa.array(np.arange(ROWS) // 20),
        "rank": pa.array(np.arange(ROWS, dtype=np.int32) % 20),
        "category": pa.array(["thing"] * ROWS),
        "kind": pa.array(["box"] * ROWS),
        "score": pa.array(rng.random(ROWS)),
        "bbox": box,
    }
    arrays = [columns.get(field.name, pa.nulls(ROWS, field.type)) for field in tables.PREDICTIONS]
    table = pa.table(arrays, schema=tables.PREDICTIONS)
    tables.to_bytes(table)
    begun = time.process_time()
    for _ in range(PARTS):
        tables.to_bytes(table)
    return (time.process_time() - begun) * 1e6 / ROWS / PARTS


def dealing(executor: Executor) -> tuple[float, float]:
    """Seconds until the first worker answered, and shards a second that the driver sends and takes back.

    Raises:
        ExecutionError: no worker comes, or workers die.
    """
    image = ImageRef(0, "s3://bucket/photos/000000000000.jpg", None, None, 640, 480, "000000000000.jpg")
    shards = (Shard(index, tuple(replace(image, image_id=i) for i in range(SHARD_IMAGES))) for index in range(SHARDS))
    begun = time.perf_counter()
    first = 0.0
    for outcome in executor.map(Idle(), shards):
        if isinstance(outcome, Lost):
            raise ExecutionError(f"a worker that had nothing to do died {outcome.attempts} times: {outcome.reason}")
        first = first or time.perf_counter()
    return first - begun, (SHARDS - 1) / (time.perf_counter() - first)
