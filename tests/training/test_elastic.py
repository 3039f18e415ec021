"""A run on a cluster that shrinks and grows: it goes on with the workers that there is room for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from shardlens.pipeline.errors import ExecutionError
from shardlens.pipeline.executors.authentication import guard_token
from shardlens.pipeline.executors.base import ExecutorConfig, Progress
from shardlens.pipeline.train import TrainConfig, train
from shardlens.pipeline.training.prepare import prepare
from tests.training.conftest import SEMANTIC
from tests.training.test_loop import losses, on_two_processes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200), pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]
Make = Callable[..., TrainConfig]
NETWORK: dict[str, Any] = {"model": "unet", "option": ("depth=2", "width=4"), "batch_size": 4}


@contextmanager
def one_node() -> Iterator[Cluster]:
    """A cluster whose head has room for one worker; others can join it."""
    guard_token()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(cluster.address, logging_level="ERROR", log_to_driver=False)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    """The same, for a test."""
    with one_node() as cluster:
        yield cluster


def workers_in(progress: Progress) -> list[int]:
    """How many workers a step's progress names; none for what is not a step."""
    if progress.stage != "train":
        return []
    named = re.search(r", (\d+) workers$", progress.detail)
    assert named is not None
    return [int(named[1])]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_node_that_is_lost_for_good_is_done_without_until_another_joins(
    config: Make, nodes: Cluster, tmp_path: Path
) -> None:
    asked = ExecutorConfig(kind="ray", workers="1:2")
    settings = {**SEMANTIC, "epochs": 100, "batch_size": 2, "executor": asked, "checkpoint_every": 10}
    whole = prepare(config(run="whole", **settings))
    on_two_processes(whole, tmp_path)
    slow = settings | {"option": ("nap=0.2",)}  # the nodes come and go in less time than the run takes
    second = nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    seen: list[int] = []

    def disturb(progress: Progress) -> None:
        seen.extend(workers_in(progress))
        if seen.count(2) == 3:
            nodes.remove_node(second, allow_graceful=False)
        if seen.count(1) == 3:
            nodes.add_node(num_cpus=1)

    train(config(**slow), disturb)
    changes = [now for before, now in zip([0, *seen], seen, strict=False) if before != now]
    assert changes == [2, 1, 2]
    assert losses(prepare(config(**slow))) == pytest.approx(losses(whole), rel=1e-3)


def trained_on_one_node(asked: TrainConfig) -> list[int]:
    """Train on a cluster of one node; how many workers each step names."""
    seen: list[int] = []
    with one_node():
        train(asked, lambda progress: seen.extend(workers_in(progress)))
    return seen


def alone(asked: TrainConfig) -> list[int]:
    """`trained_on_one_node` in a process of its own: what other clusters left in this one would end its actors."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(trained_on_one_node, asked).result()


@pytest.mark.slow
def test_a_run_that_may_use_two_starts_with_the_one_that_fits(config: Make, tmp_path: Path) -> None:
    settings = {**NETWORK, "epochs": 3, "executor": ExecutorConfig(kind="ray", workers="1:2")}
    whole = prepare(config(run="whole", **settings))
    on_two_processes(whole, tmp_path)
    assert set(alone(config(**settings))) == {1}
    assert losses(prepare(config(**settings))) == pytest.approx(losses(whole), rel=1e-3)


@pytest.mark.slow
def test_a_fixed_number_is_not_begun_with_less(config: Make) -> None:
    asked = ExecutorConfig(kind="ray", workers="2")
    with pytest.raises(ExecutionError, match="2 workers of 1 CPU and 0 GPU asked for, but the cluster can hold 1"):
        alone(config(**NETWORK, executor=asked))
