"""What a stage is and what an executor promises; the executors themselves stand in `shardlens.pipeline.executors`."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Generic, Literal, Protocol, TypeVar

from cyclopts import Parameter

from shardlens.pipeline.errors import ConfigError

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class Stage(Protocol[Item_contra, Result_co]):
    """A processing step, small enough to be sent to a worker; the state that it needs is created there by `setup`.

    A frozen dataclass of settings. `setup` runs once in each worker and returns the function that takes the items
    one by one; for a stage without state it returns a plain function. The function may be called from two threads
    at once (a worker leases two items, so that the next one's images are fetched while this one computes).
    """

    def setup(self) -> Callable[[Item_contra], Result_co]:
        """Load what is expensive, once, in the worker.

        The function may have a method `close()`, called when it gets no more items; in a worker process of its own,
        which ends then, it is not called.
        """
        ...


@dataclass(frozen=True)
class Done(Generic[Item, Result]):
    """An item that was processed."""

    item: Item
    value: Result


@dataclass(frozen=True)
class Lost(Generic[Item]):
    """An item whose worker died at every attempt."""

    item: Item
    attempts: int
    reason: str


Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Placement:
    """What each worker computes on."""

    device: Device = "cpu"
    threads: int = 1
    """Computing threads on the CPU; float rounding may depend on their number, so it belongs to a run's settings."""


class Executor(Protocol):
    """Where stages run. Results come in the order in which they are ready.

    `map` takes items as it needs them (bounded in flight), and raises the first `ShardlensError` that a stage
    raises, unchanged, after ending the work in flight. An item whose worker dies is tried again on another worker,
    `attempts` times in all, then given back as `Lost`.
    """

    @property
    def placement(self) -> Placement:
        """What each of its workers computes on."""
        ...

    def map(
        self, stage: Stage[Item, Result], items: Iterable[Item], attempts: int = 3
    ) -> Iterator[Done[Item, Result] | Lost[Item]]:
        """Run `stage` on every item."""
        ...

    def close(self) -> None:
        """Give back what the executor holds."""
        ...


@dataclass(frozen=True)
class Progress:
    """How far a stage has come, for a bar or an artifact."""

    stage: str
    done: int
    total: int
    unit: str = "images"
    detail: str = ""
    milestone: bool = False
    """Whether a log should have a line of it however soon it follows the last one, such as the end of an epoch."""


ProgressListener = Callable[[Progress], None]


def no_progress(progress: Progress) -> None:
    """Listen to nothing."""


Kind = Literal["local", "ray"]


@dataclass(frozen=True)
class ExecutorSpec:
    """An executor that can be asked for by name."""

    place: str
    """MODULE:CLASS; imported only when it is asked for. The class is called with the `ExecutorConfig`."""
    cluster: bool
    """Whether it runs on the workers of a cluster, and so takes their number and an address."""


EXECUTORS: dict[str, ExecutorSpec] = {
    "local": ExecutorSpec("shardlens.pipeline.executors.local:LocalExecutor", cluster=False),
    "ray": ExecutorSpec("shardlens.pipeline.executors.ray:RayExecutor", cluster=True),
}
"""Where stages can run. A further executor is a file, a line here and its name in `Kind`."""
BOUNDS = re.compile(r"(?:(\d{1,6}):)?(\d{1,6})")


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """Where stages run, and on how many workers."""

    kind: Annotated[Kind, Parameter(name="executor")] = "local"
    """local: in this process; ray: on the workers of a Ray cluster, an existing one or one started for the command."""
    workers: str | None = None
    """Ray workers, MIN:MAX or MAX: MIN must fit the cluster (default 1); the pool grows up to MAX (default: all the cluster
    can hold)."""
    cpus_per_worker: float = 1.0
    """CPUs that a worker computes on."""
    gpus_per_worker: float = 0.0
    """GPUs of a worker; above 0 it computes on the GPU. A fraction, such as 0.5, lets workers share a GPU."""
    address: str | None = None
    """Ray cluster to join: HOST:PORT, ray://HOST:PORT or auto; default: RAY_ADDRESS, else one is started on this machine."""
    start_timeout: float = 300.0
    """Seconds to wait for a first worker while others hold the cluster, or while it grows."""

    def __post_init__(self) -> None:
        if self.kind not in EXECUTORS:
            raise ConfigError(f"executor {self.kind!r}: expected {' or '.join(EXECUTORS)}")
        self._check("cpus_per_worker", 0 < self.cpus_per_worker < math.inf, "a number above 0")
        self._check("gpus_per_worker", 0 <= self.gpus_per_worker < math.inf, "0 or more")
        shareable = self.gpus_per_worker <= 1 or float(self.gpus_per_worker).is_integer()
        self._check("gpus_per_worker", shareable, "an integer, or a fraction of one GPU")
        self._check("start_timeout", 0 < self.start_timeout < math.inf, "seconds above 0")
        lowest, highest = self.bounds
        if highest is not None and not 1 <= lowest <= highest:
            raise ConfigError(f"workers {self.workers!r}: expected MIN:MAX with 1 <= MIN <= MAX, as 1:8")
        if not EXECUTORS[self.kind].cluster:
            self._check_local(highest or 1)

    def _check(self, name: str, good: bool, expected: str) -> None:
        if not good:
            raise ConfigError(f"{name} is {getattr(self, name)}: expected {expected}")

    def _check_local(self, highest: int) -> None:
        if highest > 1:
            raise ConfigError(
                f"workers {self.workers!r} need --executor ray: the {self.kind} executor is one process on this machine"
            )
        if self.address is not None:
            raise ConfigError(f"address {self.address!r} names a Ray cluster: it needs --executor ray")

    @property
    def bounds(self) -> tuple[int, int | None]:
        """(fewest, most) workers; `most` is None for as many as the cluster can hold.

        Raises:
            ConfigError: `workers` is not a number or two.
        """
        if self.workers is None:
            return 1, None
        bounds = BOUNDS.fullmatch(self.workers)
        if not bounds:
            raise ConfigError(f"workers {self.workers!r}: expected MIN:MAX or MAX, as 1:8 or 8")
        return int(bounds[1] or 1), int(bounds[2])

    @property
    def placement(self) -> Placement:
        """What each worker computes on."""
        return Placement("cuda" if self.gpus_per_worker > 0 else "cpu", max(1, int(self.cpus_per_worker)))


class Clock:
    """Seconds spent in each stage, added up from several threads; stages that overlap count each for itself."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def spent(self, stage: str) -> Iterator[None]:
        """Count the time of the context, failed or not, as that of `stage`."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - begun
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + taken
