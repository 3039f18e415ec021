"""What an image and a shard cost in counts, which are never noisy: bytes through Ray, files opened, calls of the network."""

from __future__ import annotations

import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from shardlens.models.spec import InputRule, ModelSpec
from shardlens.pipeline import storage
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.images.decode import Decoded, decode
from shardlens.pipeline.images.policy import DecodePolicy
from shardlens.pipeline.inference.shard_work import ShardWork
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, prepare
from tests import drawn_images

IMAGES, SHARD, BATCH = 40, 20, 8
SEEN: list[int] = []
"""How many images each call of the network was given."""


class Counting(nn.Module):
    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        SEEN.append(len(images))
        box, label, score = torch.tensor([[1.0, 2.0, 30.0, 40.0]]), torch.tensor([1]), torch.tensor([0.5])
        return [{"boxes": box, "labels": label, "scores": score} for _ in images]


def build(*, num_classes: int) -> nn.Module:
    return Counting()


SPEC = ModelSpec(
    name="tests.test_costs:SPEC",
    task="detection",
    build=build,
    input_rule=lambda model: InputRule(),
    paper="https://example.org",
    labels=("__background__", "thing"),
)


@pytest.fixture
def config(tmp_path: Path) -> PredictConfig:
    (tmp_path / "images").mkdir()
    for i in range(IMAGES):
        (tmp_path / "images" / f"{i:03d}.jpg").write_bytes(drawn_images.encode(drawn_images.picture(seed=i), "JPEG"))
    warehouse = str(tmp_path / "warehouse")
    with open_executor() as executor:
        ingest(IngestConfig("photos", images=str(tmp_path / "images"), warehouse=warehouse), executor)
    network = NetworkConfig(model=SPEC.name, weights="random")
    return PredictConfig("photos", network=network, shard_size=SHARD, batch_size=BATCH, run="r", warehouse=warehouse)


@contextmanager
def opened() -> Iterator[list[str]]:
    """Paths of the files that are opened in the meantime."""
    found: list[str] = []
    active = [True]

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if active and event == "open" and isinstance(arguments[0], str):
            found.append(arguments[0])

    sys.addaudithook(hear)  # cannot be taken away again, only made deaf
    try:
        yield found
    finally:
        active.clear()


def test_only_descriptions_and_summaries_travel(config: PredictConfig) -> None:
    job = prepare(config)
    work = ShardWork(job.shards[0])
    report = job.stage.setup()(work)
    assert len(cloudpickle.dumps(work)) < SHARD * 200
    assert len(cloudpickle.dumps(report)) < 1_000


def test_the_network_is_called_once_a_batch(config: PredictConfig) -> None:
    job = prepare(config)
    call = job.stage.setup()
    SEEN.clear()
    call(ShardWork(job.shards[0]))
    assert SEEN == [8, 8, 4]


def test_each_image_is_opened_once_and_each_shard_writes_two_parts(config: PredictConfig, tmp_path: Path) -> None:
    job = prepare(config)
    call = job.stage.setup()
    with opened() as paths:
        call(ShardWork(job.shards[0]))
    pictures = Counter(Path(path).name for path in paths if str(tmp_path / "images") in path)
    assert pictures == {f"{i:03d}.jpg": 1 for i in range(SHARD)}
    others = [path for path in paths if str(tmp_path / "warehouse") in path]
    assert len(others) == 2
    written = [
        entry.uri for kind in ("predictions", "outcomes") for entry in storage.walk(f"{config.warehouse}/{kind}")
    ]
    assert len(written) == 2


class Copies(TorchDispatchMode):
    """Notes the operations that make as many values anew as the image has."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.values, self.found = values, Counter[str]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        fresh = isinstance(out, Tensor) and out.numel() >= self.values and not func.is_view
        if fresh and not (args and args[0] is out):
            self.found[str(func)] += 1
        return out


def test_colors_become_floats_in_one_copy(config: PredictConfig) -> None:
    forward = cast(Any, prepare(config).stage.setup()).forward
    pixels = np.zeros((48, 64, 3), np.uint8)
    with Copies(pixels.size) as copies:
        forward([Decoded(pixels, 1, 48, 64)])
    assert copies.found == {"aten._to_copy.default": 1}


def test_a_jpeg_is_decoded_into_one_array() -> None:
    data = drawn_images.encode(drawn_images.picture(480, 640), "JPEG")
    decode(data, DecodePolicy())
    tracemalloc.start()  # knows of numpy's arrays
    size = decode(data, DecodePolicy()).pixels.nbytes
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size <= peak < 1.5 * size
