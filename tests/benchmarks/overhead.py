"""Everything but the network: a model that does nothing, JPEGs of 80 KB, two Ray workers; and memory as images grow."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from shardlens.pipeline.executors.base import ExecutorConfig, Progress
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, predict
from tests import drawn_images
from tests.benchmarks.alone import alone, peak

MODEL = "tests.benchmarks.models:NOTHING"
COUNTS = (2_000, 10_000)
WORKERS, ROUNDS = 2, 3
LIMITS = {"images/s": "at least 600", "driver GB": "ratio at most 1.1", "worker GB": "ratio at most 1.1"}


def draw(folder: Path, count: int, distinct: int = 100) -> None:
    """Pictures with some noise, about as large as photos are as JPEG; each is there many times, by hard links."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        place = folder / f"{i:05d}.jpg"
        if i < distinct:
            pixels = np.clip(drawn_images.picture(480, 640, i) + rng.integers(-20, 20, (480, 640, 3)), 0, 255)
            place.write_bytes(drawn_images.encode(pixels.astype(np.uint8), "JPEG", quality=85))
        else:
            place.hardlink_to(folder / f"{i % distinct:05d}.jpg")


def children(pid: int) -> Iterator[int]:
    """The process's descendants."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                yield int(child)
                yield from children(int(child))


def peaks() -> list[float]:
    """Largest memory so far, in GB, of each living worker."""
    found = []
    for pid in children(os.getpid()):
        with suppress(OSError):  # it has ended
            if Path(f"/proc/{pid}/comm").read_text().startswith("ray::"):
                found.append(peak(pid))
    return found


def measure(folder: str) -> dict[str, float]:
    """Images per second of the second half, and the peaks of driver and workers."""
    seen: list[tuple[float, int]] = []
    memory: list[float] = []

    def listen(progress: Progress) -> None:
        seen.append((time.perf_counter(), progress.done))
        if progress.done > 0.95 * progress.total:
            memory.extend(peaks())

    with tempfile.TemporaryDirectory() as warehouse:
        with open_executor() as here:
            ingest(IngestConfig("photos", images=folder, warehouse=warehouse), here)
        network = NetworkConfig(model=MODEL, weights="random")
        asked = PredictConfig("photos", network=network, precision="fp32", warehouse=warehouse)
        with open_executor(ExecutorConfig(kind="ray", workers=f"{WORKERS}:{WORKERS}")) as executor:
            predict(asked, executor, listen)
    (first, some), (last, every) = seen[len(seen) // 2], seen[-1]
    return {"images/s": (every - some) / (last - first), "driver GB": peak(), "worker GB": max(memory)}


def run() -> dict[str, dict[str, float]]:
    """Print the figures for few and for many images, and how much more memory many take."""
    rounds: dict[int, list[dict[str, float]]] = {count: [] for count in COUNTS}
    with tempfile.TemporaryDirectory() as place:
        for count in COUNTS:
            draw(Path(place) / str(count), count)
        for turn in range(ROUNDS):
            for count in COUNTS[:: -1 if turn % 2 else 1]:
                rounds[count].append(alone(measure, str(Path(place) / str(count)), forked=False))
    found = {
        str(count): {name: statistics.median(each[name] for each in some) for name in some[0]}
        for count, some in rounds.items()
    }
    few, many = (found[str(count)] for count in COUNTS)
    print(f"\nA model that does nothing, {WORKERS} Ray workers, JPEGs of 640x480 and 80 KB, median of {ROUNDS}")
    print(f"{'':12}{COUNTS[0]:>10,}{COUNTS[1]:>10,}{'ratio':>8}")
    for name, limit in LIMITS.items():
        print(f"{name:12}{few[name]:10.2f}{many[name]:10.2f}{many[name] / few[name]:8.2f}   ({limit})")
    return found
