"""Stages run on an elastic pool of Ray actors, which starts with the first ready one and shrinks as items run out.

Every stage takes this way, one without state too: its `setup` costs nothing, and an actor's call costs no more than a
task's. Ray's own retries are off; `leases` decides who is tried again. All workers are requested at the start,
so that an autoscaler sees all of the demand, and works with whatever part of it the cluster gives.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_all
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, Literal

import ray

from shardlens.pipeline.errors import ExecutionError, ShardlensError
from shardlens.pipeline.executors.base import Done, ExecutorConfig, Item, Lost, Result, Stage
from shardlens.pipeline.executors.cluster import connect, describe, grows, holds, node_died
from shardlens.pipeline.executors.leases import Lease, Leases

SETUPS = 3
"""Workers that may die in a row while they are set up, before the run is given up."""
LOOK_S = 1.0
"""How often it is checked, while no worker is there, that one can come."""
END_S = 5.0
"""How long the end of a run waits for its workers' ends."""
SILENT = "End of file."
"""Ray's words for a process that ended without an error message."""


class RayExecutor:
    """Runs stages on the actors of a Ray cluster: one that is joined, or one embedded until `close`."""

    def __init__(self, config: ExecutorConfig) -> None:
        """Connect, and see that the cluster can hold the workers.

        Raises:
            ExecutionError: it cannot be reached or started, or is too small.
        """
        self._config = config
        self.placement: Final = config.placement
        with ExitStack() as held:
            self._embedded = held.enter_context(connect(config.address))
            self._most = _most_workers(config, self._embedded)
            self._held = held.pop_all()

    def map(
        self, stage: Stage[Item, Result], items: Iterable[Item], attempts: int = 3
    ) -> Iterator[Done[Item, Result] | Lost[Item]]:
        """Run `stage` on every item; see `shardlens.pipeline.executors.base.Executor`.

        At most two items for each worker are in flight, and one for each is read ahead. The workers are the call's
        own: a second call, begun before the first has ended, waits until the cluster can hold both.

        Raises:
            ExecutionError: no worker comes in time, or workers die while they are set up.
        """
        return _Pool(self._config, self._most, self._embedded, stage, Leases(items, attempts, self._most)).run()

    def close(self) -> None:
        """Leave the cluster; an embedded one ends."""
        self._held.close()


def _most_workers(config: ExecutorConfig, embedded: bool) -> int:
    fewest, most = config.bounds
    room = holds(config.cpus_per_worker, config.gpus_per_worker)
    if room < fewest and not grows():
        raise ExecutionError(
            f"{_asked(fewest, config)}, but the cluster can hold {room} ({describe()}): lower --workers, "
            "--cpus-per-worker or --gpus-per-worker, or join a larger cluster"
        )
    room = max(room, fewest)
    return room if most is None else min(room, most) if embedded else most


def _asked(workers: int, config: ExecutorConfig) -> str:
    each = f"{config.cpus_per_worker:g} CPU and {config.gpus_per_worker:g} GPU"
    return f"{workers} {'worker' if workers == 1 else 'workers'} of {each} asked for"


class StageWorker:
    """What runs in a worker's process; its methods are called from two threads."""

    def __init__(self, gpus: float) -> None:
        if not gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray would leave every GPU of the node visible
        self._work: Callable[[Any], Any]

    def ready(self) -> None:
        """Answer as soon as the process is there."""

    def setup(self, stage: Stage[Any, Any]) -> None:
        """Load what is expensive. Not in the constructor, whose errors Ray reports as the death of the actor."""
        self._work = stage.setup()

    def work(self, item: Any) -> Any:
        """Process an item."""
        return self._work(item)


@dataclass(eq=False)
class _Worker:
    actor: Any
    state: Literal["asked", "starting", "ready"] = "asked"


class _Pool(Generic[Item, Result]):
    """The workers of one run, and the calls that they have not answered yet."""

    def __init__(
        self,
        config: ExecutorConfig,
        most: int,
        embedded: bool,
        stage: Stage[Item, Result],
        leases: Leases[_Worker, Item],
    ) -> None:
        self._config = config
        self._most = most
        self._embedded = embedded
        self._stage = stage
        self._leases = leases
        self._workers: list[_Worker] = []
        self._calls: dict[Future[Any], tuple[_Worker, Lease[Item] | None]] = {}
        self._answers: SimpleQueue[Future[Any]] = SimpleQueue()
        self._failed_setups = 0
        self._last_sign = time.monotonic()
        self._actors = ray.remote(StageWorker).options(
            num_cpus=config.cpus_per_worker,
            num_gpus=config.gpus_per_worker,
            max_concurrency=2,
            max_restarts=0,
            max_task_retries=0,
        )

    def run(self) -> Iterator[Done[Item, Result] | Lost[Item]]:
        """Give results as they are ready; closing the iterator ends the workers."""
        try:
            self._resize("")
            while self._calls:
                outcome = self._settle(self._wait())
                if outcome is not None:
                    yield outcome
        finally:
            self._end()

    def _call(self, method: Any, worker: _Worker, lease: Lease[Item] | None, *arguments: Any) -> None:
        answer = method.remote(*arguments).future()
        self._calls[answer] = worker, lease
        answer.add_done_callback(self._answers.put)

    def _wait(self) -> Future[Any]:
        """Wait for the next answer; without limit only while a worker is there.

        Not by `ray.wait`: there, all that a signal's handler raises, but for Ctrl-C, waits with it and becomes another error.
        """
        there = any(worker.state != "asked" for worker in self._workers)
        answer = self._answers.get() if there else self._first_answer()
        self._last_sign = time.monotonic()
        return answer

    def _first_answer(self) -> Future[Any]:
        """Wait while no worker is there.

        Raises:
            ExecutionError: none comes in time, or the node of an embedded cluster has died, so that none can come.
        """
        deadline = self._last_sign + self._config.start_timeout
        while (left := deadline - time.monotonic()) > 0 or not self._answers.empty():
            with suppress(Empty):
                return self._answers.get(timeout=max(0.0, min(left, LOOK_S)))
            if self._embedded and node_died():
                raise ExecutionError(
                    "the embedded Ray cluster has ended: its node died (a process of Ray was killed, or memory ran out); "
                    "run the same command again, it resumes"
                )
        raise ExecutionError(
            f"{_asked(len(self._workers), self._config)}, but the cluster gave none in {self._config.start_timeout:g} s "
            f"({describe()}, of which {_free()} are free): wait until others are done, or ask for less"
        )

    def _settle(self, answer: Future[Any]) -> Done[Item, Result] | Lost[Item] | None:
        """Take an answer, and give everybody work before the caller gets to see it."""
        if answer not in self._calls:
            return None  # of a worker that was dismissed
        worker, lease = self._calls.pop(answer)
        outcome: Done[Item, Result] | Lost[Item] | None = None
        death = ""
        try:
            value = answer.result()
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ShardlensError):
                raise error.cause from error
            raise
        except ray.exceptions.RayError as error:
            death = reason(error)
            outcome = self._bury(worker, lease, death)
        else:
            if lease is None:
                self._advance(worker)
            else:
                self._leases.done(worker, lease)
                outcome = Done(lease.item, value)
        self._deal()
        self._resize(death)
        return outcome

    def _advance(self, worker: _Worker) -> None:
        if worker.state == "asked":
            worker.state = "starting"
            self._call(worker.actor.setup, worker, None, self._stage)
        else:
            worker.state = "ready"
            self._failed_setups = 0
            self._leases.join(worker)

    def _bury(self, worker: _Worker, lease: Lease[Item] | None, death: str) -> Lost[Item] | None:
        """A worker died; the answer to its other call, if it has one, is still to come and may be a good one."""
        if worker in self._workers:
            self._workers.remove(worker)
            ray.kill(worker.actor)  # it may only be out of reach
        if lease is None:
            self._failed_setups += 1
            return None
        return Lost(lease.item, lease.attempts, death) if self._leases.died(worker, lease) else None

    def _deal(self) -> None:
        coming = sum(worker.state != "ready" for worker in self._workers)
        while dealt := self._leases.next(coming):
            worker, lease = dealt
            self._call(worker.actor.work, worker, lease, lease.item)

    def _resize(self, death: str) -> None:
        """As many workers as there are items, at most; who came last goes first."""
        idle = [worker for worker in self._workers if not self._leases.holds(worker)]
        busy = len(self._workers) - len(idle)
        wanted = min(self._most, self._leases.waiting() + busy)
        while idle and len(self._workers) > wanted:
            self._dismiss(idle.pop())
        if self._failed_setups >= SETUPS:
            if wanted and not self._calls:
                raise ExecutionError(
                    f"{self._failed_setups} workers in a row died while they were set up, the last one so: {death}; "
                    "their memory may be too short for the model, their machine may lack a library, or the cluster may want "
                    "another RAY_AUTH_MODE than this process has"
                )
            return
        while len(self._workers) < wanted:
            worker = _Worker(self._actors.remote(self._config.gpus_per_worker))
            self._workers.append(worker)
            self._call(worker.actor.ready, worker, None)

    def _dismiss(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        self._leases.leave(worker)
        self._calls = {answer: call for answer, call in self._calls.items() if call[0] is not worker}
        ray.kill(worker.actor)

    def _end(self) -> None:
        if not ray.is_initialized():  # the executor was closed first; a call now would start a cluster
            return
        working = [answer for answer, (_, lease) in self._calls.items() if lease is not None]
        for worker in self._workers:
            ray.kill(worker.actor)
        wait_for_all(working, END_S)


def _free() -> str:
    free: Any = ray.available_resources()  # type: ignore[no-untyped-call]
    return f"{free.get('CPU', 0):g} CPU and {free.get('GPU', 0):g} GPU"


def reason(error: Exception) -> str:
    """Why a worker died, in a line, from Ray's paragraphs."""
    text = str(error).strip()
    _, label, detail = text.rpartition("Worker exit detail: ")
    if SILENT in detail:
        return "its process ended without an error message (killed, out of memory, or crashed in native code)"
    if label:
        return " ".join(detail.split())
    first, *rest = [line for line in text.splitlines() if not line.startswith("\t")] or [type(error).__name__]
    if first == ray.exceptions.ActorDiedError.BASE_ERROR_MSG and rest:
        return rest[0]
    return rest[-1].strip() if rest else first
