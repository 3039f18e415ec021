"""Many workers without many machines: a stage that only sleeps, on Ray nodes that share this machine.

A worker sleeps for one item at a time while its second one waits, as a model computes one shard while the next one's
images are fetched. Efficiency is the time that items took over the time that workers were there, from when all of them
were at work to the last item of all. A node that is killed in the middle costs what its workers held, and a node that
joins is used.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from shardlens.pipeline.executors.base import Done, Executor, ExecutorConfig
from shardlens.pipeline.executors.opening import open_executor
from tests.benchmarks.alone import alone

WORKERS, ITEMS, SECONDS = 64, 2_000, 0.1
SHARE = 0.02
ON_A_NODE = 10
HELD = 2
"""Items that a worker may hold."""


@dataclass(frozen=True)
class Sleep:
    """A stage whose items cost time and nothing else."""

    seconds: float
    calls: Path | None = None
    """File that gets a line for each call."""
    straggling: bool = False
    """Every fiftieth item takes ten times as long."""

    def setup(self) -> Callable[[int], tuple[int, float, float, float]]:
        """Make the worker's turn, which one item has at a time."""
        turn = threading.Lock()

        def sleep(item: int) -> tuple[int, float, float, float]:
            """Process, beginning and end (seconds since the epoch), and the seconds that it was to take."""
            seconds = self.seconds * (10 if self.straggling and item % 50 == 25 else 1)
            if self.calls:
                with self.calls.open("a") as sink:
                    sink.write(f"{item}\n")
            with turn:
                begun = time.time()
                time.sleep(seconds)
                return os.getpid(), begun, time.time(), seconds

        return sleep


def asked(workers: int) -> ExecutorConfig:
    return ExecutorConfig(
        kind="ray", workers=f"1:{workers}", cpus_per_worker=SHARE, address=os.environ.get("RAY_ADDRESS")
    )


def steady(straggling: bool = False) -> dict[str, float]:
    """All workers at work: items go on until every worker has been heard of, and 2,000 more."""
    outcomes: list[tuple[int, float, float, float]] = []

    def items() -> Iterator[int]:
        while len({process for process, *_ in outcomes}) < WORKERS:
            yield len(outcomes)
        yield from range(ITEMS)

    with open_executor(asked(WORKERS)) as executor:
        begun = time.perf_counter()
        for outcome in executor.map(Sleep(SECONDS, straggling=straggling), items()):
            assert isinstance(outcome, Done)
            outcomes.append(outcome.value)
        whole = time.perf_counter() - begun
    spans: dict[int, list[tuple[float, float, float]]] = defaultdict(list)
    for process, *span in outcomes:
        spans[process].append(tuple(span))
    together = max(min(start for start, _, _ in each) for each in spans.values())
    last = max(end for each in spans.values() for _, end, _ in each)
    kept = [seconds for each in spans.values() for start, _, seconds in each if start >= together]
    efficiency = sum(kept) / (len(spans) * (last - together))
    idle = min(max(end for _, end, _ in each) for each in spans.values())
    return {
        "workers": len(spans),
        "items while all were there": len(kept),
        "efficiency": efficiency,
        "from the first idle worker to the end, items": (last - idle) / SECONDS,
        "seconds with the start": whole,
    }


def straggling() -> dict[str, float]:
    """The same, one item in fifty ten times as long as the others, wherever it falls."""
    return steady(True)


def shaken() -> dict[str, float]:
    """Three nodes of ten workers: one is killed when all are at work, another joins, and items go on until it works too."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    third = [cluster.add_node(num_cpus=1) for _ in range(2)][-1]
    ray.init(cluster.address, logging_level="ERROR", log_to_driver=False)
    config = ExecutorConfig(kind="ray", workers=f"1:{3 * ON_A_NODE}", cpus_per_worker=1 / ON_A_NODE)
    processes: set[int] = set()
    ends: list[float] = []
    all_at_work = threading.Event()

    def items() -> Iterator[int]:
        while len(processes) <= 3 * ON_A_NODE:
            yield len(ends)
        yield from range(ITEMS // 4)

    def go_through(executor: Executor, calls: Path) -> None:
        try:
            for outcome in executor.map(Sleep(SECONDS, calls), items()):
                assert isinstance(outcome, Done), outcome
                ends.append(time.perf_counter())
                processes.add(outcome.value[0])
                if len(processes) == 3 * ON_A_NODE:
                    all_at_work.set()
        finally:
            all_at_work.set()

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as beside, open_executor(config) as executor:
        calls = Path(folder) / "calls"
        work = beside.submit(go_through, executor, calls)
        all_at_work.wait()
        killed = time.perf_counter()
        cluster.remove_node(third, allow_graceful=False)
        cluster.add_node(num_cpus=1)  # which only the main thread may do
        work.result()
        again = len(calls.read_text().splitlines()) - len(ends)
        ray.shutdown()
        cluster.shutdown()
    return {
        "items": len(ends),
        f"items begun anew after the kill (limit {HELD * ON_A_NODE})": again,
        "workers that came after it": len(processes) - 3 * ON_A_NODE,
        "longest time without a result after it, s": max(b - a for a, b in pairwise(ends) if b > killed),
    }


def run() -> dict[str, dict[str, float]]:
    """Print what both experiments gave."""
    found = {measure.__name__: alone(measure) for measure in (steady, straggling, shaken)}
    print(
        f"\n{WORKERS} workers of {SHARE} CPU that sleep {SECONDS * 1e3:.0f} ms an item; with stragglers; 30 on three nodes"
    )
    for title, figures in found.items():
        print(f" {title}")
        for name, value in figures.items():
            print(f"  {name:48}{value:10.2f}")
    return found
