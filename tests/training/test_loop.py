from __future__ import annotations

import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError, RunError, TrainingError, WeightsError
from shardlens.pipeline.executors.base import ExecutorConfig, Progress
from shardlens.pipeline.networks.devices import open_device
from shardlens.pipeline.networks.weights import load
from shardlens.pipeline.train import train
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.job import TrainJob
from shardlens.pipeline.training.loop import LocalWorker, fit
from shardlens.pipeline.training.prepare import prepare
from shardlens.pipeline.training.records import Trained, claim
from shardlens.pipeline.training.stepper import build_network
from shardlens.pipeline.warehouse import tables
from tests.training.conftest import FAILING, SEMANTIC

Make = Callable[..., TrainConfig]
ROOT = Path(__file__).resolve().parents[2]


def trained(config: TrainConfig) -> Trained:
    return fit(prepare(config), LocalWorker())


def weights(job: TrainJob) -> dict[str, torch.Tensor]:
    network, _ = build_network(job)
    load(network, storage.read(f"{job.folder}/model.safetensors"), "the checkpoint")
    return network.state_dict()


def losses(job: TrainJob) -> list[float]:
    found: list[float] = tables.from_bytes(storage.read(f"{job.folder}/training.parquet"))["loss"].to_pylist()
    return found


def on_two_processes(job: TrainJob, folder: Path) -> list[str]:
    """Train with plain torch.distributed; what each rank printed, the first one its digest."""
    (folder / "job").write_bytes(pickle.dumps(job))
    command = [sys.executable, "-m", "tests.training.ranks", str(folder / "job")]
    store = folder / "store"
    ranks = [
        subprocess.Popen([*command, str(rank), "2", str(store)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=1200)[0].strip() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    return said


DETECTOR = {"epochs": 4, "learning_rate": 5e-3, "batch_size": 4}


@pytest.mark.parametrize("task", [DETECTOR, {**SEMANTIC, "epochs": 4, "learning_rate": 2e-2}])
def test_the_loss_falls(config: Make, task: dict[str, Any]) -> None:
    found = [epoch["loss"] for epoch in trained(config(**task)).losses]
    assert found[-1] < 0.8 * found[0]


def test_an_instance_model_of_the_zoo_takes_a_step(config: Make) -> None:
    option = ("min_size=32", "max_size=32")
    done = trained(config(dataset="pair", model="maskrcnn_resnet50_fpn", option=option, learning_rate=1e-4))
    assert done.steps == 1
    assert done.losses[0]["loss_mask"] > 0


def test_equal_seeds_give_equal_weights_to_the_bit(config: Make) -> None:
    digests = [trained(config(run=str(i), seed=seed)).sha256 for i, seed in enumerate((3, 3, 4))]
    assert digests[0] == digests[1] != digests[2]


def test_the_first_weights_are_of_the_seed(config: Make) -> None:
    standstill = {**SEMANTIC, "learning_rate": 1e-30, "weight_decay": 0}
    digests = [trained(config(run=str(seed), seed=seed, **standstill)).sha256 for seed in (0, 1)]
    assert digests[0] != digests[1]


def test_training_leaves_the_callers_random_numbers_and_threads_alone(config: Make) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    trained(config(**SEMANTIC, threads=threads + 1))
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == threads


def new_pages_after(asked: TrainConfig) -> int:
    """Train; how many new pages large arrays need then, one after another."""
    trained(asked)
    large = 128 << 20  # more than any block that is free in the heap
    np.ones(large, np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(large, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_freed_memory_goes_back_to_the_system_after_training(config: Make) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # this one's heap is full of other tests' free blocks
        assert fresh.submit(new_pages_after, config(**SEMANTIC)).result() > 100  # kept memory needs no new ones


def test_two_workers_are_one_with_twice_the_batch(config: Make, tmp_path: Path) -> None:
    quick = {**SEMANTIC, "epochs": 17, "learning_rate": 2e-2, "clip_norm": 1.0}
    pair = prepare(config(run="two", batch_size=3, executor=ExecutorConfig(kind="ray", workers="2"), **quick))
    on_two_processes(pair, tmp_path)
    one = prepare(config(run="one", batch_size=6, **quick))
    alone = fit(one, LocalWorker())
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(pair)[name], tensor, rtol=1e-4, atol=1e-5)
    assert losses(pair) == pytest.approx(losses(one), rel=1e-4)
    assert alone.steps == len(losses(one)) == 17 * 3


def test_progress_counts_the_steps(config: Make) -> None:
    heard: list[Progress] = []
    fit(prepare(config(epochs=2, batch_size=4)), LocalWorker(listener=heard.append))
    steps = [p for p in heard if p.stage == "train"]
    assert [p.done for p in steps] == list(range(1, 9))
    assert {(p.total, p.unit) for p in steps} == {(8, "steps")}
    assert heard[-1].detail.startswith("epoch 2/2, loss ")


def test_training_starts_from_a_checkpoint(config: Make, warehouse: str) -> None:
    trained(config(run="first"))
    job = prepare(config(run="second", init=f"{warehouse}/checkpoints/first"))
    first = weights(prepare(config(run="first")))
    assert all(torch.equal(tensor, first[name]) for name, tensor in build_network(job)[0].state_dict().items())


def test_a_checkpoint_of_another_model_is_refused(config: Make, warehouse: str) -> None:
    trained(config(run="first"))
    with pytest.raises(WeightsError, match=r"none of its .* tensors fits"):
        trained(config(**SEMANTIC, run="second", init=f"{warehouse}/checkpoints/first"))


def test_a_loss_that_is_not_a_number_stops_the_run_with_its_images(config: Make, warehouse: str) -> None:
    settings = config(**FAILING, option=("nan_at=3",), batch_size=4)
    with pytest.raises(
        TrainingError, match=r"loss is not a finite number.*epoch 1, step 3 \(area nan\).*images \d+, \d+"
    ):
        trained(settings)
    assert not storage.exists(f"{warehouse}/checkpoints/r/model.safetensors")


def test_a_gradient_that_is_not_finite_stops_the_run(config: Make) -> None:
    with pytest.raises(
        TrainingError, match=r"the gradient is not a finite number.*step 2.*lower --learning-rate \(it was \d"
    ):
        trained(config(**FAILING, option=("steep_from=2",), batch_size=4))


def test_a_validation_that_stops_the_run_names_the_checkpoint_to_go_on_from(config: Make) -> None:
    boxes = {"model": "tests.training.color_models:BOXES", "option": ("nan_on_red=0.5",)}
    with pytest.raises(
        TrainingError, match=r"predictions are no finite numbers.*last good checkpoint is .*step-000002"
    ):
        trained(config(**boxes, val_split="train", validate_every=2, epochs=2))


@pytest.mark.parametrize(
    ("room", "advice"), [(3, "one of 2 does: use --batch-size 2, with --accumulate"), (0, "nor does one image")]
)
def test_a_full_device_is_explained_with_the_batch_that_fits(config: Make, room: int, advice: str) -> None:
    with pytest.raises(ConfigError, match=rf"a batch of 8 images does not fit the memory of cpu.*2 GiB\); {advice}"):
        trained(config(**FAILING, option=(f"room={room}",)))


def test_a_cpu_without_memory_is_explained_as_a_gpu_is(config: Make) -> None:
    message = r"8 images does not fit the memory of cpu \(DefaultCPUAllocator: .* 8 bytes\); .*use --batch-size 2"
    with pytest.raises(ConfigError, match=message):
        trained(config(**FAILING, option=("room=3", "ram=true")))


def test_the_advice_can_be_followed_under_the_same_name(config: Make, warehouse: str) -> None:
    with pytest.raises(ConfigError, match="use --batch-size 2"):
        train(config(**FAILING, option=("room=3",)))
    assert train(config(**FAILING, option=("room=3",), batch_size=2)).checkpoint == f"{warehouse}/checkpoints/r"


def test_a_loss_that_failed_at_once_leaves_the_name_for_other_settings(config: Make, warehouse: str) -> None:
    with pytest.raises(TrainingError, match=r"lower --learning-rate.*no checkpoint had been written yet"):
        train(config(**FAILING, option=("nan_at=3",), batch_size=4))
    lower = config(**FAILING, option=(), learning_rate=1e-5, batch_size=4)
    assert train(lower).checkpoint == f"{warehouse}/checkpoints/r"


def test_a_run_with_a_checkpoint_keeps_its_name(config: Make) -> None:
    settings = {**FAILING, "option": ("nan_at=7",), "batch_size": 4, "epochs": 2}
    with pytest.raises(TrainingError, match="last good checkpoint"):
        train(config(**settings))
    with pytest.raises(RunError, match="exists with other settings"):
        train(config(**settings, learning_rate=1e-5))


def test_a_run_that_others_had_begun_keeps_its_name(config: Make) -> None:
    claim(prepare(config(**FAILING, option=("room=3",))))
    with pytest.raises(ConfigError, match="use --batch-size 2"):
        train(config(**FAILING, option=("room=3",)))
    assert not claim(prepare(config(**FAILING, option=("room=3",)))).fresh


@pytest.mark.parametrize("speedup", [1.9, 1.1])
def test_bf16_that_gains_nothing_is_reported_before_the_first_step(
    speedup: float, config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("shardlens.pipeline.networks.precision.bf16_speedup", lambda: speedup)
    train(config(model="unet", option=("depth=2", "width=4"), precision="bf16", epochs=1), on_note=told.append)
    assert any("bf16 gains little or nothing on this cpu" in note for note in told) is (speedup < 1.3)


def test_a_batch_too_small_for_its_statistics_is_explained(config: Make) -> None:
    with pytest.raises(ConfigError, match=r"SEGMENTER takes statistics.*batch of 1 is too small.*--batch-size"):
        trained(config(**{**SEMANTIC, "option": ("pooled=true",)}, dataset="pair", batch_size=1))


def test_a_last_batch_too_small_for_its_statistics_is_reported_before_the_first_step(config: Make) -> None:
    heard: list[Progress] = []
    job = prepare(
        config(**{**SEMANTIC, "option": ("pooled=true",)}, batch_size=2, accumulate=3)
    )  # the second step has 5
    with pytest.raises(ConfigError, match=r"SEGMENTER takes statistics.*batch of 1 is too small"):
        fit(job, LocalWorker(listener=heard.append))
    assert not [p for p in heard if p.stage == "train"]


def test_gradients_that_overflow_at_every_scale_stop_fp16_too(config: Make) -> None:
    with pytest.raises(TrainingError, match=r"the gradient is not a finite number.*epoch 16, step 16 "):
        trained(config(**FAILING, option=("steep_from=1",), batch_size=16, epochs=40, precision="fp16"))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_learn_too(config: Make, precision: str) -> None:
    option = ("depth=2", "width=4")
    done = trained(config(model="unet", option=option, precision=precision, epochs=2, learning_rate=1e-2, batch_size=4))
    assert done.losses[-1]["loss"] < done.losses[0]["loss"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match="torch sees none on the worker"):
        open_device("cuda")
