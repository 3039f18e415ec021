"""Images per second of one detector: Shardlens, the model alone, and what a user would write instead.

400 JPEGs of 640x480, `fasterrcnn_mobilenet_v3_large_320_fpn` with the same random weights, no score threshold. Each
contestant runs in a process of its own, one after another, their order rotated; medians of the rounds. Two races: all
in fp32 and channels_last; and everything at its defaults, where those that would differ little from the first are left
out. All write rows of image, label, score and box to Parquet; the rows of the first race are compared.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from shardlens.pipeline.executors.base import ExecutorConfig
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.precision import resolve_precision
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, predict
from tests import drawn_images
from tests.benchmarks import peers
from tests.benchmarks.alone import alone
from tests.benchmarks.peers import BATCH, CORES, MODEL

IMAGES = int(os.environ.get("SHARDLENS_BENCH_IMAGES", "400"))
ROUNDS = int(os.environ.get("SHARDLENS_BENCH_ROUNDS", "3"))
SWAPPED = 1e-3
"""Share of the corners that may lie elsewhere: of two boxes that are as sure, rounding chooses."""
Figures = dict[str, float]


def draw(folder: Path) -> None:
    """Smooth pictures with some noise, about as large as photos are as JPEG, and the network's weights."""
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        noise = rng.integers(-20, 20, (480, 640, 3))
        pixels = np.clip(drawn_images.picture(480, 640, i) + noise, 0, 255).astype(np.uint8)
        (folder / "images" / f"{i:04d}.jpg").write_bytes(drawn_images.encode(pixels, "JPEG", quality=85))
    peers.draw_weights(folder, peers.decoded(peers.photos(folder)[0]))


def shardlens(folder: Path, precision: str, kind: str) -> Figures:
    """Ours on one worker a core: steady (from the third shard's end to the last), and from before Ray's start."""
    begun = time.perf_counter()
    warehouse = str(folder / "warehouse")
    network = NetworkConfig(model=MODEL, weights=str(folder / peers.WEIGHTS), score_threshold=0.0)
    run = f"{precision}-{kind}-{os.getpid()}"
    asked = PredictConfig(
        "photos", network=network, run=run, precision=precision, batch_size=BATCH, shard_size=16, warehouse=warehouse
    )
    ends: list[tuple[float, int]] = []
    executor = ExecutorConfig(kind="ray", workers=f"{CORES}:{CORES}") if kind == "ray" else ExecutorConfig()
    with open_executor(executor) as workers:
        predict(asked, workers, lambda p: ends.append((time.perf_counter(), p.done)))
        whole = ends[-1][1] / (time.perf_counter() - begun)
    (first, some), (last, every) = ends[3], ends[-1]
    return {"steady": (every - some) / (last - first), "with start": whole}


def shardlens_on_ray(folder: Path, same: bool) -> Figures:
    return shardlens(folder, "fp32" if same else "auto", "ray")


def shardlens_in_process(folder: Path, same: bool) -> Figures:
    return shardlens(folder, "fp32" if same else "auto", "local")


CONTESTANTS: dict[str, Callable[[Path, bool], Figures]] = {
    "model only": peers.model_only,
    "naive script": peers.naive,
    "torch DataLoader": peers.dataloader,
    "Ray Data": peers.ray_data,
    "Shardlens on Ray": shardlens_on_ray,
    "Shardlens in process": shardlens_in_process,
}
SAME = ("model only", "naive script", "torch DataLoader", "Ray Data", "Shardlens on Ray")
DEFAULTS = ("naive script", "Shardlens on Ray", "Shardlens in process")


def race(folder: Path, names: tuple[str, ...], same: bool) -> dict[str, Figures]:
    """Medians of each contestant's figures."""
    found: dict[str, list[Figures]] = {name: [] for name in names}
    for turn in range(ROUNDS):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(alone(CONTESTANTS[name], folder, same))
    return {
        name: {kind: statistics.median(r[kind] for r in rounds) for kind in rounds[0]} for name, rounds in found.items()
    }


def show(title: str, medians: dict[str, Figures]) -> None:
    bases = {"model only": "steady", "naive script": "steady", "Ray Data": "with start"}
    against = {name: medians[name][kind] for name, kind in bases.items() if name in medians}
    print(f"\n{title}: {IMAGES} images of 640x480, {MODEL}, {CORES} cores, median of {ROUNDS}")
    print(f"{'images/s':36}{'':>8}" + "".join(f"{'of ' + name:>17}" for name in against))
    for name, figures in medians.items():
        for kind, value in figures.items():
            ratios = "".join(f"{value / base:17.2f}" for base in against.values())
            print(f"{f'{name}, {kind}':36}{value:8.2f}{ratios}")


def check_rows(folder: Path) -> None:
    """The contestants of the race that was the same for all found the same: as many rows, their scores and boxes alike.

    Each class has boxes of its own, so that equal boxes are of equal classes.
    """
    ours = pq.read_table(next((folder / "warehouse/predictions").rglob("run=fp32-ray-*")))
    box = [ours["bbox"].combine_chunks().field(side).to_numpy() for side in ("x", "y", "width", "height")]
    corners = (box[0], box[1], box[0] + box[2], box[1] + box[3])
    expected = by_image(ours["image_id"], (ours["score"], *corners))
    for file in sorted(folder.glob("rows-*")):
        table = pq.read_table(file)
        edges = np.stack(table["box"].to_pylist()).T
        found = by_image(table["image"], (table["score"], *edges))
        assert [one.shape for one in found] == [one.shape for one in expected], file.name
        assert all(np.allclose(a[0], b[0], atol=1e-3) for a, b in zip(found, expected, strict=True)), file.name
        far = np.concatenate([(np.abs(a[1:] - b[1:]) > 0.1).ravel() for a, b in zip(found, expected, strict=True)])
        assert far.mean() < SWAPPED, file.name
    print(f"rows of {len(list(folder.glob('rows-*')))} peers equal ours")


def by_image(numbers: Any, columns: Iterable[Any]) -> list[np.ndarray]:
    """(columns, rows) of each image, each column sorted by itself, for scores that are nearly equal change places."""
    numbers, table = np.asarray(numbers), np.stack([np.asarray(column, dtype=np.float64) for column in columns])
    return [np.sort(table[:, numbers == number], axis=1) for number in np.unique(numbers)]


def run() -> dict[str, Any]:
    """Print both tables."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        draw(folder)
        with open_executor() as here:
            ingest(IngestConfig("photos", images=str(folder / "images"), warehouse=str(folder / "warehouse")), here)
        same = race(folder, SAME, True)
        show("fp32 and channels_last for all", same)
        check_rows(folder)
        defaults = race(folder, DEFAULTS, False)
        auto = resolve_precision("auto", "cpu")
        show(f"everything at its defaults (--precision auto is {auto})", defaults)
    return {"images": IMAGES, "rounds": ROUNDS, "auto": auto, "same": same, "defaults": defaults}
