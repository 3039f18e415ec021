"""What a user would write instead of Shardlens: the same network, images and rows, as the tools' own pages have it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from shardlens import models

MODEL = "fasterrcnn_mobilenet_v3_large_320_fpn"
LABELS = 91
WEIGHTS = "weights.safetensors"
BATCH = 8
CORES = len(os.sched_getaffinity(0))


@torch.inference_mode()
def draw_weights(folder: Path, image: Tensor) -> None:
    """Random ones, with the statistics of an image in every norm.

    Without them the features vanish on their way, all scores are the same to nine digits, and rounding chooses the boxes.
    """
    torch.manual_seed(0)
    model = models.build(MODEL, LABELS, {}, 0.0).eval()
    hooks = [m.register_forward_pre_hook(_take_statistics) for m in model.modules() if hasattr(m, "running_var")]
    model([image])
    for hook in hooks:
        hook.remove()
    save_file(model.state_dict(), folder / WEIGHTS)


def _take_statistics(norm: Any, inputs: tuple[Tensor, ...]) -> None:
    norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
    norm.running_var.copy_(inputs[0].var((0, 2, 3)))


def network(folder: Path, same: bool) -> torch.nn.Module:
    """The same weights for every contestant; channels_last in the race that is the same for all."""
    model = models.build(MODEL, LABELS, {}, 0.0).eval()
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model.to(memory_format=torch.channels_last) if same else model


def photos(folder: Path) -> list[Path]:
    return sorted((folder / "images").iterdir())


def decoded(path: Path) -> Tensor:
    """(3, H, W) float in [0, 1]."""
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).float() / 255


@torch.inference_mode()
def model_only(folder: Path, same: bool) -> dict[str, float]:
    """The network on tensors that are decoded already, all cores in one process."""
    torch.set_num_threads(CORES)
    model, tensors = network(folder, same), [decoded(path) for path in photos(folder)]
    model(tensors[:BATCH])
    begun = time.perf_counter()
    for start in range(0, len(tensors), BATCH):
        model(tensors[start : start + BATCH])
    return {"steady": len(tensors) / (time.perf_counter() - begun)}


@torch.inference_mode()
def naive(folder: Path, same: bool) -> dict[str, float]:
    """A loop: PIL, the network, a dict for each row, Parquet."""
    torch.set_num_threads(CORES)
    model, rows = network(folder, same), []
    begun = time.perf_counter()
    for number, path in enumerate(photos(folder), 1):
        rows += as_dicts(number, model([decoded(path)])[0])
    write(rows, folder, "naive", same)
    return {"steady": len(photos(folder)) / (time.perf_counter() - begun)}


class Photos(torch.utils.data.Dataset[tuple[int, Tensor]]):
    """The images as torch has datasets."""

    def __init__(self, folder: Path) -> None:
        self.paths = photos(folder)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        return index + 1, decoded(self.paths[index])


@torch.inference_mode()
def dataloader(folder: Path, same: bool) -> dict[str, float]:
    """A DataLoader with a worker process a core in front of the network."""
    torch.set_num_threads(CORES)
    model, rows = network(folder, same), []
    begun = time.perf_counter()
    loader = torch.utils.data.DataLoader(Photos(folder), BATCH, num_workers=CORES, collate_fn=lambda batch: batch)
    for batch in loader:
        for (number, _), found in zip(batch, model([image for _, image in batch]), strict=True):
            rows += as_dicts(number, found)
    write(rows, folder, "dataloader", same)
    return {"steady": len(photos(folder)) / (time.perf_counter() - begun)}


class Detector:
    """The network as Ray Data's actors hold it."""

    def __init__(self, folder: Path, same: bool) -> None:
        torch.set_num_threads(1)
        self.model = network(folder, same)

    @torch.inference_mode()
    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """Rows of a batch of images (N, H, W, 3) uint8."""
        tensors = [torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 for image in batch["image"]]
        rows: list[dict[str, Any]] = []
        for path, found in zip(batch["path"], self.model(tensors), strict=True):
            rows += as_dicts(int(Path(path).stem) + 1, found)
        return pa.Table.from_pylist(rows)


def ray_data(folder: Path, same: bool) -> dict[str, float]:
    """read_images, map_batches with a class on a pool of an actor a core, write_parquet."""
    begun = time.perf_counter()
    import ray

    ray.init(num_cpus=CORES + 1, include_dashboard=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    read = ray.data.read_images(str(folder / "images"), include_paths=True, mode="RGB")
    found = read.map_batches(
        Detector,
        fn_constructor_args=(folder, same),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=CORES),
        num_cpus=1,
    )
    found.write_parquet(str(folder / f"{'rows' if same else 'default'}-ray-data-{os.getpid()}"))
    seconds = time.perf_counter() - begun
    ray.shutdown()
    return {"with start": len(photos(folder)) / seconds}


def as_dicts(number: int, found: dict[str, Tensor]) -> list[dict[str, Any]]:
    columns = (found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist())
    return [
        {"image": number, "label": label, "score": score, "box": box}
        for box, label, score in zip(*columns, strict=True)
    ]


def write(rows: list[dict[str, Any]], folder: Path, name: str, same: bool) -> None:
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{'rows' if same else 'default'}-{name}-{os.getpid()}.parquet")
