"""A local run computes in its caller's process, and leaves that as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from shardlens.models.spec import InputRule, ModelSpec
from shardlens.pipeline.errors import ShardlensError
from shardlens.pipeline.executors.base import ExecutorConfig, Placement
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.inference.options import InferenceConfig
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, predict
from shardlens.pipeline.retry import retry_quarantined
from shardlens.pipeline.warehouse import runs
from shardlens.pipeline.warehouse.layout import Warehouse
from tests import drawn_images


class Exits(nn.Module):
    def __init__(self, num_classes: int, when: str) -> None:
        super().__init__()
        self.when = when
        if when == "built":
            sys.exit(3)

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        if self.when == "called":
            sys.exit("enough")
        empty = torch.zeros(0)
        return [{"boxes": torch.zeros(0, 4), "labels": empty.long(), "scores": empty} for _ in images]


SPEC = ModelSpec(
    name="tests.inference.test_process_settings:SPEC",
    task="detection",
    build=Exits,
    input_rule=lambda model: InputRule(),
    paper="https://example.org",
    labels=("__background__", "thing"),
)


@pytest.fixture
def warehouse(tmp_path: Path) -> str:
    (tmp_path / "images").mkdir()
    for i in range(2):
        data = drawn_images.encode(drawn_images.picture(seed=i), "JPEG")
        (tmp_path / "images" / f"{i}.jpg").write_bytes(data)
    root = str(tmp_path / "warehouse")
    ingest(IngestConfig("photos", images=str(tmp_path / "images"), warehouse=root), LocalExecutor())
    return root


def config(warehouse: str, when: str = "never", tile: int = 0, **settings: float) -> PredictConfig:
    network = NetworkConfig(model=SPEC.name, option=(f"when={when}",), weights="random")
    inference = InferenceConfig(tile=tile, overlap=8 if tile else 64)
    given = {"network": network, "inference": inference, "run": "r", "precision": "fp32", **settings}
    return PredictConfig("photos", warehouse=warehouse, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("tile", [0, 32])
def test_threads_and_random_numbers_are_the_callers_again(warehouse: str, tile: int) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 2)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    try:
        predict(config(warehouse, tile=tile), LocalExecutor())
        assert torch.get_num_threads() == threads + 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before)


def test_threads_are_the_callers_again_after_an_error(warehouse: str) -> None:
    threads = torch.get_num_threads()
    with pytest.raises(ShardlensError, match="gpus-per-worker"):
        predict(config(warehouse), LocalExecutor(ExecutorConfig(gpus_per_worker=1.0, cpus_per_worker=threads + 1)))
    assert torch.get_num_threads() == threads


PAGES = """
import resource
from shardlens.pipeline.executors import malloc
import numpy as np
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def pages():
    before = faults()
    for _ in range(10):
        np.ones(3 << 20, np.uint8)
    return (faults() - before) / 10
malloc.keep_freed_memory()
pages()
kept = pages()
malloc.restore_defaults()
print(kept < 10, pages() > 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_freed_memory_goes_back_to_the_system_again() -> None:
    done = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_device_and_threads_come_from_the_executor(warehouse: str) -> None:
    predict(config(warehouse), LocalExecutor(ExecutorConfig(cpus_per_worker=2.5)))
    settings = runs.find(Warehouse(warehouse), "r").settings
    assert (settings["device"], settings["threads"]) == ("cpu", 2)
    assert ExecutorConfig(gpus_per_worker=0.5, cpus_per_worker=0.5).placement == Placement("cuda", 1)


def test_a_retry_computes_as_the_run_did(warehouse: str) -> None:
    predict(config(warehouse), LocalExecutor(ExecutorConfig(cpus_per_worker=2)))
    assert retry_quarantined(warehouse, "r", LocalExecutor(), model=SPEC.name).images == 2


def test_a_model_that_exits_ends_its_image_alone(warehouse: str) -> None:
    report = predict(config(warehouse, "called", max_quarantined=1.0), LocalExecutor())
    assert report.quarantined == 2


def test_a_model_that_exits_when_it_is_built_is_an_error_that_says_so(warehouse: str) -> None:
    with pytest.raises(ShardlensError, match=r"sys.exit\(3\)"):
        predict(config(warehouse, "built"), LocalExecutor())
