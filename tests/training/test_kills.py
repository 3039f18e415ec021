"""Kill -9 of one worker, of all and of the driver: the run ends as an undisturbed one does, to the bit."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shardlens.pipeline.executors import cluster
from shardlens.pipeline.executors.base import ExecutorConfig, Progress
from shardlens.pipeline.train import TrainConfig, train
from shardlens.pipeline.training.prepare import prepare
from tests.training.test_loop import ROOT, on_two_processes
from tests.training.test_state import rows

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200), pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]
Make = Callable[..., TrainConfig]
TWO = ExecutorConfig(kind="ray", workers="2", cpus_per_worker=0.5)
WORKER, CONTROLLER = "ray::RayTrainWorker", "ray::TrainController"
STEPS = 48
"""Kills come at random ones, so that many runs of the tests see many of them; a failure names its own."""
NETWORK: dict[str, Any] = {"model": "unet", "option": ("depth=2", "width=4")}
SETTINGS: dict[str, Any] = {
    **NETWORK,
    "executor": TWO,
    "batch_size": 2,
    "epochs": STEPS // 4,
    "ema": 0.9,
    "checkpoint_every": 5,
}


@pytest.fixture(scope="module")
def embedded() -> Iterator[None]:
    with cluster.connect():
        yield


def processes_of(parent: int, title: str) -> list[int]:
    """Processes of Ray below `parent` whose title begins so."""
    lines = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout.splitlines()[1:]
    split = (line.split(None, 2) for line in lines)
    processes = {int(pid): (int(above), command) for pid, above, command in split}
    return [pid for pid, (_, command) in processes.items() if title in command and parent in above(pid, processes)]


def above(pid: int, processes: dict[int, tuple[int, str]]) -> Iterator[int]:
    """Parents of a process, their parents, ..."""
    while pid in processes:
        pid = processes[pid][0]
        yield pid


@pytest.fixture(scope="module")
def undisturbed(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    """Digest and rows of the same run on two plain processes that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(drawn / "warehouse", folder / "warehouse")
    job = prepare(TrainConfig("shapes", warehouse=str(folder / "warehouse"), run="whole", **SETTINGS))
    return on_two_processes(job, folder)[0], rows(job)


@pytest.mark.slow
def test_killed_workers_are_replaced_and_nothing_is_lost(
    config: Make, embedded: None, undisturbed: tuple[str, list[dict[str, Any]]]
) -> None:
    sha256, expected = undisturbed
    at = sorted(random.sample(range(6, STEPS - 5), 3))
    kills = [(at[0], WORKER, 1), (at[1], WORKER, 2), (at[2], CONTROLLER, 1)]

    def kill(progress: Progress) -> None:
        if kills and progress.stage == "train" and progress.done >= kills[0][0]:
            _, title, victims = kills.pop(0)
            for pid in random.sample(processes_of(os.getpid(), title), victims):
                os.kill(pid, signal.SIGKILL)

    report = train(config(**SETTINGS), kill)
    assert not kills, at
    assert report.resumed_from > 0, at
    assert report.sha256 == sha256, at
    assert rows(prepare(config(**SETTINGS))) == expected, at


@pytest.mark.slow
def test_a_killed_command_goes_on_when_it_is_given_again(
    config: Make, undisturbed: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    sha256, expected = undisturbed
    (tmp_path / "config").write_bytes(pickle.dumps(config(**SETTINGS)))
    command = [sys.executable, "-m", "tests.training.driving", str(tmp_path / "config")]
    at = random.randrange(6, STEPS - 5)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if int(line) >= at:
                driver.kill()
                break
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert again.stdout.split()[-2] == sha256, at
    assert int(again.stdout.split()[-1]) > 0, at
    assert rows(prepare(config(**SETTINGS))) == expected, at
