"""Many workers without many machines: a stage that only sleeps, on Ray nodes that share this machine.

Efficiency is the time that items took over the time that workers were there, from each worker's first item to the last
item of all. A node that is killed in the middle costs what its workers held, and a node that joins is used.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.execution import Done
from pipeline.executors import ExecutorConfig, open_executor

WORKERS, ITEMS, SECONDS = 64, 2_000, 0.1
SHARE = 0.02


@dataclass(frozen=True)
class Sleep:
    """A stage whose items cost time and nothing else."""

    seconds: float

    def setup(self) -> Callable[[int], tuple[int, float, float]]:
        """Nothing to load."""
        return self.sleep

    def sleep(self, item: int) -> tuple[int, float, float]:
        """Process, beginning and end (seconds since the epoch)."""
        begun = time.time()
        time.sleep(self.seconds)
        return os.getpid(), begun, time.time()


def asked(workers: int) -> ExecutorConfig:
    return ExecutorConfig(
        kind="ray", workers=f"1:{workers}", cpus_per_worker=SHARE, address=os.environ.get("RAY_ADDRESS")
    )


def steady() -> dict[str, float]:
    """All workers at work: items go on until every worker has been heard of, and 2,000 more."""
    outcomes: list[tuple[int, float, float]] = []

    def items() -> Iterator[int]:
        while len({process for process, _, _ in outcomes}) < WORKERS:
            yield len(outcomes)
        yield from range(ITEMS)

    with open_executor(asked(WORKERS)) as executor:
        begun = time.perf_counter()
        for outcome in executor.map(Sleep(SECONDS), items()):
            assert isinstance(outcome, Done)
            outcomes.append(outcome.value)
        whole = time.perf_counter() - begun
    spans: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for process, start, end in outcomes:
        spans[process].append((start, end))
    together = max(min(start for start, _ in each) for each in spans.values())
    last = max(end for each in spans.values() for _, end in each)
    kept = [(start, end) for each in spans.values() for start, end in each if start >= together]
    efficiency = len(kept) * SECONDS / (len(spans) * (last - together))
    idle = min(max(end for _, end in each) for each in spans.values())
    return {
        "workers": len(spans),
        "items while all were there": len(kept),
        "efficiency": efficiency,
        "from the first idle worker to the end, items": (last - idle) / SECONDS,
        "seconds with the start": whole,
    }


def shaken() -> dict[str, float]:
    """Three nodes of ten workers; one is killed after a third of the items, another joins after that."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second, third = (cluster.add_node(num_cpus=1) for _ in range(2))
    ray.init(cluster.address, logging_level="ERROR", log_to_driver=False)
    config = ExecutorConfig(kind="ray", workers="1:30", cpus_per_worker=0.1)
    processes: Counter[int] = Counter()
    outcomes: list[Any] = []
    with open_executor(config) as executor:
        for outcome in executor.map(Sleep(SECONDS), range(ITEMS)):
            outcomes.append(outcome)
            if isinstance(outcome, Done):
                processes[outcome.value[0]] += 1
            if len(outcomes) == ITEMS // 3:
                before = set(processes)
                cluster.remove_node(third, allow_graceful=False)
            if len(outcomes) == ITEMS // 2:
                cluster.add_node(num_cpus=1)
    ray.shutdown()
    cluster.shutdown()
    del second
    return {
        "items done": sum(isinstance(o, Done) for o in outcomes),
        "items lost": sum(not isinstance(o, Done) for o in outcomes),
        "workers that came after the loss": len(set(processes) - before),
    }


def alone(what: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-m", "tests.benchmarks.cluster", what], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{what}: {done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def run() -> dict[str, dict[str, float]]:
    """Print what both experiments gave."""
    found = {name: alone(name) for name in ("steady", "shaken")}
    print(f"\n{WORKERS} workers of {SHARE} CPU that sleep {SECONDS * 1e3:.0f} ms an item; then 30 on three nodes")
    for figures in found.values():
        for name, value in figures.items():
            print(f"  {name:48}{value:10.2f}")
    return found


if __name__ == "__main__":
    print(json.dumps({"steady": steady, "shaken": shaken}[sys.argv[1]]()))
