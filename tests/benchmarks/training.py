"""Images per second of training one detector at fp32: a plain torch loop, and Shardlens in process and on Ray.

256 drawn images of 256x256, `fcos_small`, batches of 8, AdamW with clipped gradients, one thread each. Steady state: from
the end of the first epoch to the end of the last, checkpoints included. All keep decoded images in memory after the
first epoch ("cached"), or decode them in every epoch ("decoding"), the plain loop by itself, Shardlens beside the steps.
The plain loop and the worker in process have one core; those on Ray leave the others to Ray's own processes.
Contestants run one after another, each in a process of its own, their order turned in each round; medians.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shardlens import models
from shardlens.flows.synthetic_shapes import draw_dataset
from shardlens.pipeline.executors.base import ExecutorConfig, Progress
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.images.decode import decode
from shardlens.pipeline.images.policy import DecodePolicy
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.train import TrainConfig, train
from tests.benchmarks.alone import alone

IMAGES, SIDE, BATCH = 256, 256, 8
EPOCHS = int(os.environ.get("SHARDLENS_BENCH_EPOCHS", "3"))
ROUNDS = int(os.environ.get("SHARDLENS_BENCH_ROUNDS", "3"))
MODEL, LABELS = "fcos_small", 4
CONTESTANTS = (
    "plain loop, cached",
    "1 worker, cached",
    "1 worker on Ray, cached",
    "2 workers on Ray, cached",
    "plain loop, decoding",
    "1 worker, decoding",
)
STEADY = IMAGES * (EPOCHS - 1)


def truth(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Targets by file name."""
    document = json.loads((folder / "instances_train.json").read_text())
    found = {}
    for image in document["images"]:
        rows = [a for a in document["annotations"] if a["image_id"] == image["id"]]
        boxes = torch.tensor([a["bbox"] for a in rows], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found[image["file_name"]] = {"boxes": boxes, "labels": torch.tensor([a["category_id"] for a in rows])}
    return found


def read(path: Path) -> Tensor:
    """(3, H, W) uint8, decoded as Shardlens does it."""
    return torch.from_numpy(np.ascontiguousarray(decode(path.read_bytes(), DecodePolicy()).pixels.transpose(2, 0, 1)))


def batches(folder: Path, keep: bool) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """All epochs' batches."""
    targets = truth(folder)
    kept: dict[str, Tensor] = {}
    paths = sorted((folder / "train/images").iterdir())
    for epoch in range(EPOCHS):
        order = np.random.default_rng(epoch).permutation(len(paths))
        for part in np.array_split(order, len(paths) // BATCH):
            chosen = [paths[i] for i in part]
            images = [kept[p.name] if p.name in kept else read(p) for p in chosen]
            if keep:
                kept.update(zip((p.name for p in chosen), images, strict=True))
            yield images, [targets[p.name] for p in chosen]


def plain(folder: Path, keep: bool) -> float:
    """A loop as one writes it."""
    torch.set_num_threads(1)
    network = models.build(MODEL, LABELS, {}).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-4)
    begun, first = 0.0, IMAGES // BATCH
    for step, (images, targets) in enumerate(batches(folder, keep)):
        if step == first:
            begun = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        losses = network([image.float() / 255 for image in images], targets)
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
    return STEADY / (time.perf_counter() - begun)


def shardlens(folder: Path, keep: bool, workers: int, ray: bool) -> float:
    """Ours; the global batch is the same for any number of workers."""
    executor = ExecutorConfig(kind="ray", workers=str(workers)) if ray else ExecutorConfig()
    ends: dict[int, float] = {}
    config = TrainConfig(
        "shapes",
        model=MODEL,
        run=f"{workers}-{ray}-{keep}-{os.getpid()}",
        epochs=EPOCHS,
        batch_size=BATCH // workers,
        flip=False,
        cache_mb=1024 if keep else 0,
        executor=executor,
        warehouse=str(folder / "warehouse"),
    )
    train(config, lambda progress: note(progress, ends))
    first = min(step for step in ends if step >= IMAGES // BATCH)
    last = max(ends)
    return (last - first) * BATCH / (ends[last] - ends[first])


def note(progress: Progress, ends: dict[int, float]) -> None:
    """Remember when a step was told of."""
    if progress.stage == "train":
        ends[progress.done] = time.perf_counter()


def contestant(name: str, folder: Path) -> float:
    """Images per second of one contestant."""
    kind, _, how = name.partition(", ")
    keep, ray = how == "cached", kind.endswith("on Ray")
    if not ray:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return plain(folder, keep) if kind == "plain loop" else shardlens(folder, keep, int(kind[0]), ray)


def run() -> dict[str, dict[str, float]]:
    """Print the table of medians, and their ratios to the plain loop's."""
    found: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw_dataset(folder, {"train": IMAGES}, size=SIDE)
        images, annotations = str(folder / "train/images"), str(folder / "instances_train.json")
        with open_executor() as here:
            warehouse = str(folder / "warehouse")
            ingest(IngestConfig("shapes", images=images, annotations=annotations, warehouse=warehouse), here)
        for turn in range(ROUNDS):
            for name in CONTESTANTS[turn % len(CONTESTANTS) :] + CONTESTANTS[: turn % len(CONTESTANTS)]:
                found[name].append(alone(contestant, name, folder))
    medians = {name: statistics.median(values) for name, values in found.items()}
    print(f"\n{IMAGES} images of {SIDE}x{SIDE}, {MODEL}, fp32, batch {BATCH}, steady state, median of {ROUNDS}")
    print(f"{'':34}{'images/s':>10}{'of plain loop':>16}")
    for name, value in medians.items():
        print(f"{name:34}{value:10.2f}{value / medians['plain loop, ' + name.partition(', ')[2]]:16.2f}")
    return {"images_per_second": medians}
