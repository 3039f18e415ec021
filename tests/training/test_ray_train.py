from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from shardlens.pipeline.errors import ExecutionError, TrainingError
from shardlens.pipeline.executors import cluster
from shardlens.pipeline.executors.base import ExecutorConfig, Progress
from shardlens.pipeline.executors.ray_train import backend, explain
from shardlens.pipeline.train import TrainConfig, launch, train
from shardlens.pipeline.training.prepare import prepare
from shardlens.pipeline.training.records import claim
from tests.training.conftest import FAILING
from tests.training.test_loop import on_two_processes

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]
Make = Callable[..., TrainConfig]
ONE, TWO = (ExecutorConfig(kind="ray", workers=workers, cpus_per_worker=0.5) for workers in ("1", "2"))


@pytest.fixture(scope="module")
def embedded() -> Iterator[None]:
    with cluster.connect():
        yield


def test_two_workers_train_as_two_plain_processes_do(config: Make, embedded: None, tmp_path: Path) -> None:
    settings = config(executor=TWO, batch_size=5, epochs=2)
    heard: list[tuple[Progress, str]] = []
    before = signal.getsignal(signal.SIGINT)
    report = train(settings, lambda progress: heard.append((progress, threading.current_thread().name)))
    assert on_two_processes(prepare(config(executor=TWO, batch_size=5, epochs=2)), tmp_path)[0] == report.sha256
    assert {thread for _, thread in heard} == {"MainThread"}
    assert (heard[-1][0].done, heard[-1][0].total) == (4, 4)
    assert signal.getsignal(signal.SIGINT) is before
    assert "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S" not in os.environ


def test_an_error_of_a_worker_comes_back_unchanged(config: Make, embedded: None) -> None:
    with pytest.raises(
        TrainingError, match=r"^the loss is not a finite number any more at epoch 1, step 2 \(area nan\)"
    ):
        train(config(**FAILING, option=("nan_at=2",), executor=ONE, batch_size=2))
    assert claim(
        prepare(config(**FAILING, option=(), executor=ONE, batch_size=2))
    ).fresh  # nothing was kept, the name neither


def test_a_worker_that_dies_is_an_explained_error(config: Make, embedded: None) -> None:
    with pytest.raises(ExecutionError, match=r"training worker 0 died.*smaller --batch-size"):
        train(config(**FAILING, option=("die_at=2",), executor=ONE, batch_size=2, max_failures=1))


def test_a_caller_that_gives_up_takes_its_workers_with_it(config: Make, embedded: None) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config(executor=ONE, epochs=1000), interrupt)
    assert [t for t in threading.enumerate() if t.name == "train"] == []


def test_more_workers_than_fit_are_refused_at_once(config: Make, embedded: None) -> None:
    asked = ExecutorConfig(kind="ray", workers="16", cpus_per_worker=64)
    with pytest.raises(ExecutionError, match=r"16 workers of 64 CPU and 0 GPU asked for, but the cluster can hold 0"):
        launch(prepare(config(executor=asked)), lambda progress: None)


def test_a_cluster_that_others_hold_is_waited_for_no_longer_than_asked(config: Make, embedded: None) -> None:
    held = ray.util.placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
    ray.get(held.ready())
    asked = ExecutorConfig(kind="ray", workers="1", start_timeout=0.5)
    with pytest.raises(ExecutionError, match=r"no room for 1 workers in time.*longer --start-timeout"):
        train(config(executor=asked))
    ray.util.remove_placement_group(held)


def test_ours_among_many_failures_is_the_one_that_is_reported() -> None:
    failures: dict[int, Exception] = {0: RuntimeError("connection closed by peer"), 1: TrainingError("ours")}
    assert str(explain(WorkerGroupError("both", failures))) == "ours"


@pytest.mark.parametrize(("gpus", "name"), [(0, "gloo"), (0.5, "gloo"), (1, "nccl"), (2, "nccl")])
def test_workers_that_share_a_gpu_do_without_nccl(gpus: float, name: str) -> None:
    assert backend(ExecutorConfig(gpus_per_worker=gpus)) == name


def test_a_failure_of_another_kind_is_named() -> None:
    found = explain(WorkerGroupError("one", {1: ValueError("bad shape\nand more")}))
    assert str(found) == "training worker 1 failed: ValueError: bad shape"


def test_a_failure_of_ray_itself_is_reported() -> None:
    found = explain(ControllerError(RuntimeError("no disk")))
    assert str(found) == "Ray could not run the training: RuntimeError: no disk"
