"""Images per second of one detector at one precision: the model alone, a naive script, and Shardlens.

300 JPEGs of 640x480, `fasterrcnn_mobilenet_v3_large_320_fpn` with random weights, fp32. Contestants run one after
another, each in a process of its own, on all cores; three rounds, their order rotated; medians.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

import models
from pipeline.datasets import IngestConfig, ingest
from pipeline.executors import ExecutorConfig, open_executor
from pipeline.networks import NetworkConfig
from pipeline.predict import PredictConfig, predict
from tests import images

IMAGES = int(os.environ.get("SHARDLENS_BENCH_IMAGES", "300"))
ROUNDS = int(os.environ.get("SHARDLENS_BENCH_ROUNDS", "3"))
MODEL = "fasterrcnn_mobilenet_v3_large_320_fpn"
LABELS = 91
BATCH = 8
CORES = len(os.sched_getaffinity(0))


def network() -> torch.nn.Module:
    """The same random weights for every contestant."""
    torch.manual_seed(0)
    return models.build(MODEL, LABELS, {}, 0.0).eval()


def photos(folder: Path) -> list[Path]:
    return sorted((folder / "images").iterdir())


def draw(folder: Path) -> None:
    """Smooth pictures with some noise, about as large as photos are as JPEG."""
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        noise = rng.integers(-20, 20, (480, 640, 3))
        pixels = np.clip(images.picture(480, 640, i) + noise, 0, 255).astype(np.uint8)
        (folder / "images" / f"{i:04d}.jpg").write_bytes(images.encode(pixels, "JPEG", quality=85))


@torch.inference_mode()
def model_only(folder: Path) -> float:
    """The network on decoded float tensors, all cores in one process: what nothing can pass."""
    torch.set_num_threads(CORES)
    model = network()
    tensors = [torch.from_numpy(np.array(Image.open(p))).permute(2, 0, 1).float().div(255) for p in photos(folder)]
    model(tensors[:BATCH])
    begun = time.perf_counter()
    for start in range(0, len(tensors), BATCH):
        model(tensors[start : start + BATCH])
    return len(tensors) / (time.perf_counter() - begun)


@torch.inference_mode()
def naive(folder: Path) -> float:
    """A script as one writes it: PIL, the model, a dict for each row, Parquet."""
    torch.set_num_threads(CORES)
    model, rows = network(), []
    begun = time.perf_counter()
    for number, path in enumerate(photos(folder)):
        image = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).float() / 255
        found = model([image])[0]
        for box, label, score in zip(
            found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True
        ):
            rows.append({"image": number, "box": box, "label": label, "score": score})
    pq.write_table(pa.Table.from_pylist(rows), folder / "naive.parquet")
    return IMAGES / (time.perf_counter() - begun)


def shardlens(folder: Path, kind: str) -> dict[str, float]:
    """Ours on one worker a core: steady state (from the first shard's end to the last), and with everything."""
    with tempfile.TemporaryDirectory() as warehouse:
        with open_executor() as here:
            ingest(IngestConfig("photos", images=str(folder / "images"), warehouse=warehouse), here)
        config = NetworkConfig(model=MODEL, weights="random", score_threshold=0.0)
        asked = PredictConfig(
            "photos", network=config, precision="fp32", batch_size=BATCH, shard_size=15, warehouse=warehouse
        )
        ends: list[tuple[float, int]] = []
        begun = time.perf_counter()
        executor = ExecutorConfig(kind="ray", workers=f"{CORES}:{CORES}") if kind == "ray" else ExecutorConfig()
        with open_executor(executor) as workers:
            predict(asked, workers, lambda p: ends.append((time.perf_counter(), p.done)))
        whole = IMAGES / (time.perf_counter() - begun)
    (first, some), (last, every) = ends[2], ends[-1]
    return {"steady": (every - some) / (last - first), "with start": whole}


CONTESTANTS = ("model only", "naive script", "shardlens on ray", "shardlens in process")


def contestant(name: str, folder: Path) -> dict[str, float]:
    """Images per second of one contestant."""
    if name == "model only":
        return {"steady": model_only(folder)}
    if name == "naive script":
        return {"steady": naive(folder)}
    return shardlens(folder, "ray" if name.endswith("ray") else "local")


def run() -> dict[str, dict[str, float]]:
    """Print the table of medians and ratios."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder))
        for turn in range(ROUNDS):
            for name in CONTESTANTS[turn % len(CONTESTANTS) :] + CONTESTANTS[: turn % len(CONTESTANTS)]:
                done = subprocess.run(
                    [sys.executable, "-m", "tests.benchmarks.throughput", name, folder], capture_output=True, text=True
                )
                if done.returncode:
                    raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
    medians = {
        f"{name}, {kind}" if kind != "steady" or name.startswith("shardlens") else name: statistics.median(
            one[kind] for one in rounds
        )
        for name, rounds in found.items()
        for kind in rounds[0]
    }
    print(f"\n{IMAGES} images of 640x480, {MODEL}, fp32, {CORES} cores, median of {ROUNDS}")
    print(f"{'':34}{'images/s':>10}{'of model only':>16}{'of naive':>11}")
    for name, value in medians.items():
        print(f"{name:34}{value:10.2f}{value / medians['model only']:16.2f}{value / medians['naive script']:11.2f}")
    return {"images_per_second": medians}


if __name__ == "__main__":
    print(json.dumps(contestant(sys.argv[1], Path(sys.argv[2]))))
