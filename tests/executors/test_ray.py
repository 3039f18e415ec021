"""What becomes of items whose workers die, and how the pool grows and shrinks."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shardlens.pipeline.errors import ExecutionError
from shardlens.pipeline.executors.base import Done, Executor, ExecutorConfig, Lost
from shardlens.pipeline.executors.opening import open_executor
from tests.executors.conftest import TWO
from tests.executors.stages import Environment, Meet, Square, Unset, calls, close, lines, wait_until, workers

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("pool")]
SILENT = "its process ended without an error message (killed, out of memory, or crashed in native code)"


@contextmanager
def occupied(cpus: float) -> Iterator[None]:
    """Somebody else holds CPUs of the cluster."""
    import ray

    class Stranger:
        def here(self) -> None: ...

    stranger: Any = ray.remote(Stranger).options(num_cpus=cpus).remote()
    ray.get(stranger.here.remote())
    yield
    ray.kill(stranger)


def cluster_cpus() -> float:
    import ray

    found: Any = ray.cluster_resources()
    return float(found["CPU"])


def free_cpus() -> float:
    import ray

    found: Any = ray.available_resources()
    return float(found.get("CPU", 0))


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for yet does not."""
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_only_the_item_that_kills_is_lost(pool: Executor, tmp_path: Path) -> None:
    outcomes = list(pool.map(Square(tmp_path, deadly=(5,)), range(12)))
    assert [outcome for outcome in outcomes if isinstance(outcome, Lost)] == [Lost(5, 3, SILENT)]
    assert sorted(o.value for o in outcomes if isinstance(o, Done)) == [i * i for i in range(12) if i != 5]
    counted = calls(tmp_path)
    assert counted.pop(5) == 3
    assert sorted(counted.values())[-2:] in ([1, 1], [1, 2])  # a neighbor may have been begun twice, not more


def test_neighbors_that_both_kill_are_both_lost(pool: Executor, tmp_path: Path) -> None:
    outcomes = list(pool.map(Square(tmp_path, deadly=(0, 1, 2)), range(5), attempts=2))
    assert {o.item: o.attempts for o in outcomes if isinstance(o, Lost)} == {0: 2, 1: 2, 2: 2}
    assert {o.item for o in outcomes if isinstance(o, Done)} == {3, 4}
    assert max(calls(tmp_path).values()) <= 2  # less if a worker died of one before it had begun the other


def test_a_single_attempt_is_one_call(pool: Executor, tmp_path: Path) -> None:
    outcomes = list(pool.map(Square(tmp_path, deadly=(2,)), range(6), attempts=1))
    assert [outcome for outcome in outcomes if isinstance(outcome, Lost)] == [Lost(2, 1, SILENT)]
    assert calls(tmp_path) == dict.fromkeys(range(6), 1)


def test_a_worker_killed_from_outside_costs_nothing(pool: Executor, tmp_path: Path) -> None:
    outcomes = pool.map(Square(tmp_path, seconds=0.05), range(16))
    first = next(outcomes)
    os.kill(workers(tmp_path)[0], signal.SIGKILL)
    assert {first.item, *(outcome.item for outcome in outcomes if isinstance(outcome, Done))} == set(range(16))
    assert sum(calls(tmp_path).values()) <= 16 + 2


def test_a_death_in_the_setup_is_made_good(pool: Executor, tmp_path: Path) -> None:
    assert len(list(pool.map(Unset(tmp_path, deaths=1), range(4)))) == 4


def test_workers_that_die_in_every_setup_end_the_run(pool: Executor, tmp_path: Path) -> None:
    with pytest.raises(
        ExecutionError, match=r"\d workers in a row died while they were set up, the last one so: its pro"
    ):
        list(pool.map(Unset(tmp_path, deaths=99), range(4)))
    assert 3 <= len(lines(tmp_path / "setups")) <= 4


def test_one_worker_that_could_be_set_up_does_all(pool: Executor, tmp_path: Path) -> None:
    assert sorted(outcome.item for outcome in pool.map(Unset(tmp_path, once=True), range(3))) == [0, 1, 2]
    assert len(lines(tmp_path / "setups")) == 4


def test_two_items_use_two_workers(pool: Executor, tmp_path: Path) -> None:
    assert len(list(pool.map(Meet(tmp_path), range(2)))) == 2
    assert len(workers(tmp_path)) == 2


def test_one_worker_takes_two_items_at_once(tmp_path: Path) -> None:
    with open_executor(ExecutorConfig(kind="ray", workers="1", cpus_per_worker=0.5)) as single:
        assert len(list(single.map(Meet(tmp_path), range(2)))) == 2
    assert len(workers(tmp_path)) == 1


def test_closing_ends_the_workers_amid_their_items(pool: Executor, tmp_path: Path) -> None:
    class Stuck(Square):
        def square(self, item: int) -> int:
            Square.square(self, item)
            if item:
                time.sleep(60)
            return item

    outcomes = pool.map(Stuck(tmp_path), range(9))
    assert next(outcomes).item == 0
    wait_until(lambda: len(calls(tmp_path)) > 1)
    close(outcomes)
    wait_until(lambda: free_cpus() == cluster_cpus())
    wait_until(lambda: not any(alive(worker) for worker in workers(tmp_path)))  # Ray counts their CPUs as free before


def test_the_pool_starts_small_and_grows(pool: Executor, tmp_path: Path) -> None:
    outcomes = pool.map(Square(tmp_path, seconds=0.02), range(100_000))
    with occupied(cluster_cpus() - TWO.cpus_per_worker):
        for _ in range(20):
            next(outcomes)
        assert len(workers(tmp_path)) == 1
    wait_until(lambda: next(outcomes) and len(workers(tmp_path)) == 2)
    close(outcomes)


def test_an_idle_worker_leaves_while_another_works(pool: Executor, tmp_path: Path) -> None:
    class Uneven(Square):
        def square(self, item: int) -> int:
            Square.square(self, item)
            if item == 0:
                wait_until((self.folder / "seen").exists)
            return item

    outcomes = pool.map(Uneven(tmp_path), [0, 1])
    assert next(outcomes).item == 1
    wait_until(lambda: free_cpus() == cluster_cpus() - TWO.cpus_per_worker)
    (tmp_path / "seen").touch()
    assert [outcome.item for outcome in outcomes] == [0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gpus_per_worker": 64.0}, "1 worker of 1 CPU and 64 GPU asked for, but the cluster can hold 0"),
        ({"cpus_per_worker": 512.0}, "1 worker of 512 CPU and 0 GPU asked for, but the cluster can hold 0"),
        ({"workers": "5000:6000"}, r"5000 workers of 1 CPU and 0 GPU asked for, .* \(1 node of \d+ CPU and \d+ GPU\)"),
    ],
)
def test_what_the_cluster_cannot_hold_is_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ExecutionError, match=message), open_executor(ExecutorConfig(kind="ray", **settings)):
        pass


def test_waiting_for_a_busy_cluster_has_an_end(tmp_path: Path) -> None:
    config = ExecutorConfig(kind="ray", workers="1", start_timeout=0.5)
    expected = r"1 worker of 1 CPU .* but the cluster gave none in 0.5 s \(1 node .*, of which 0 CPU"
    with occupied(cluster_cpus()), open_executor(config) as busy, pytest.raises(ExecutionError, match=expected):
        list(busy.map(Square(tmp_path), range(3)))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Worker exit type: SYSTEM_ERROR Worker exit detail: Connection error code 2. End of file. Some (1)", SILENT),
        (
            "Worker exit type: X Worker exit detail: Worker exits with\nan exit code 3.",
            "Worker exits with an exit code 3.",
        ),
        (
            "The actor died unexpectedly before finishing this task.\n\tpid: 7\nIts node has died.\nHm.",
            "Its node has died.",
        ),
        (
            "The actor died because of an error\n  File a.py\nModuleNotFoundError: pipeline",
            "ModuleNotFoundError: pipeline",
        ),
        ("", "RayError"),
    ],
)
def test_a_death_is_explained_in_a_line(text: str, line: str) -> None:
    from ray.exceptions import RayError

    from shardlens.pipeline.executors.ray import reason

    assert reason(RayError(text)) == line


def test_two_thousand_items_take_little_longer_than_their_work(pool: Executor, tmp_path: Path) -> None:
    class Nothing(Square):
        def square(self, item: int) -> int:
            return item

    outcomes = pool.map(Nothing(tmp_path), range(2000))
    next(outcomes)
    begun = time.monotonic()
    assert sum(1 for _ in outcomes) == 1999
    assert time.monotonic() - begun < 20  # a hundredth of a second each, on the slowest machine


def test_a_stage_that_workers_cannot_import_says_so(pool: Executor, tmp_path: Path) -> None:
    module = ModuleType("nowhere_to_be_found")
    exec("class Stage:\n    def setup(self):\n        return abs\n", module.__dict__)
    sys.modules[module.__name__] = module
    with pytest.raises(Exception, match="No module named 'nowhere_to_be_found'"):
        list(pool.map(module.Stage(), [1]))
    del sys.modules[module.__name__]


@pytest.mark.skipif("MALLOC_ARENA_MAX" in os.environ, reason="the user's own setting stays")
def test_workers_of_an_embedded_ray_begin_with_few_heaps(pool: Executor) -> None:
    (outcome,) = pool.map(Environment(), ["MALLOC_ARENA_MAX"])
    assert isinstance(outcome, Done)
    assert outcome.value == "2"
    assert "MALLOC_ARENA_MAX" not in os.environ
