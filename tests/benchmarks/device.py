"""How much of its time a device is at work that needs nothing of the CPU: a network that rests for some ms an image.

It stands in for a GPU where there is none: all that fetch, decoding, batches, rows and writing take is overlapped with the
device's work, or shows here as what is missing to 1; of it some 0.7 ms an image are the floats made of the pixels, which a
GPU makes itself. One worker in process, JPEGs of 640x480 and 80 KB; with a box an image, and with instance masks, whose
rows cost the CPU most. The start (plan, network) is left out.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, predict
from tests.benchmarks.alone import alone
from tests.benchmarks.overhead import draw

MODEL = "tests.benchmarks.models:RESTING"
IMAGES, ROUNDS = 384, 3
CASES = ((3, 0), (10, 20), (30, 100))
"""Milliseconds of the device and instance masks, of each image."""


def at_work(warehouse: str, milliseconds: int, masks: int) -> dict[str, float]:
    """Images a second and the device's share from the second shard's end to the last one's; shares of its waits in all."""
    ends: list[tuple[float, int]] = []
    option = (f"seconds={milliseconds / 1000}", f"masks={masks}")
    network = NetworkConfig(model=MODEL, weights="random", option=option)
    run = f"{milliseconds}-{masks}-{time.time_ns()}"
    asked = PredictConfig("photos", network=network, run=run, precision="fp32", warehouse=warehouse)
    with open_executor() as here:
        report = predict(asked, here, lambda p: ends.append((time.perf_counter(), p.done)))
    (first, some), (last, every) = ends[2], ends[-1]
    stages, there = report.stages, sum(report.stages[name] for name in ("wait", "forward", "behind"))
    return {
        "images/s": (every - some) / (last - first),
        "at work": (every - some) * milliseconds / 1000 / (last - first),
        "waited for images": stages["wait"] / there,
        "waited for rows": stages["behind"] / there,
    }


def run() -> dict[str, dict[str, float]]:
    """Print a line a case."""
    with tempfile.TemporaryDirectory() as place:
        warehouse, here = f"{place}/warehouse", Path(place, "images")
        draw(here, IMAGES)
        with open_executor() as executor:
            ingest(IngestConfig("photos", images=str(here), warehouse=warehouse), executor)
        found = {case: [alone(at_work, warehouse, *case) for _ in range(ROUNDS)] for case in CASES}
    medians = {
        f"{milliseconds} ms, {masks} masks": {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
        for (milliseconds, masks), rounds in found.items()
    }
    print(f"\nA device that rests for some ms an image, one worker in process, {IMAGES} JPEGs, median of {ROUNDS}")
    print(f"{'':20}" + "".join(f"{name:>20}" for name in next(iter(medians.values()))))
    for name, figures in medians.items():
        print(f"{name:20}" + "".join(f"{value:20.2f}" for value in figures.values()))
    return medians
