"""Stages run in this process: two items at a time, so that one is fetched while the other computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from queue import SimpleQueue
from threading import Thread
from typing import Final, Generic

from shardlens.pipeline.errors import ExecutionError
from shardlens.pipeline.executors.base import Done, ExecutorConfig, Item, Result, Stage

LEASES = 2
"""Items in flight at once, each in a thread of its own."""
FAREWELL_S = 1.0
"""How long an interrupted run waits for its threads, which cannot be stopped from outside."""


class LocalExecutor:
    """Runs stages in this process. A death of the worker is one of the process, so nothing is ever `Lost`."""

    def __init__(self, config: ExecutorConfig = ExecutorConfig()) -> None:  # noqa: B008 - frozen
        self.placement: Final = config.placement

    def map(self, stage: Stage[Item, Result], items: Iterable[Item], attempts: int = 3) -> Iterator[Done[Item, Result]]:
        """Run `stage` on every item; see `shardlens.pipeline.executors.base.Executor`."""
        source = iter(items)
        first = list(islice(source, 1))
        if not first:
            return
        work = _set_up(stage)
        pair = _Pair(work)
        farewell: float | None = FAREWELL_S
        try:
            for item in islice(chain(first, source), LEASES):
                pair.give(item)
            while pair.in_flight:
                done = pair.take()
                for item in islice(source, 1):
                    pair.give(item)
                yield done
        except (Exception, GeneratorExit):  # not an interrupt, which may not wait for the items under way
            farewell = None
            raise
        finally:
            pair.end(farewell)
            getattr(work, "close", _nothing)()

    def close(self) -> None:
        """Nothing is held between two calls of `map`."""


def _set_up(stage: Stage[Item, Result]) -> Callable[[Item], Result]:
    try:
        return stage.setup()
    except SystemExit as error:
        raise _exited(error) from error


def _exited(error: SystemExit) -> ExecutionError:
    """What a worker's death is on a cluster: code of a stage, a model of the user's own say, that ends its process."""
    return ExecutionError(f"code that runs in the stage called sys.exit({error.code!r}): remove that call")


def _nothing() -> None:
    """Close nothing."""


class _Pair(Generic[Item, Result]):
    """Two threads that call one function. They are daemons: an interrupt need not wait for a long item."""

    def __init__(self, work: Callable[[Item], Result]) -> None:
        self.in_flight = 0
        self._work = work
        self._items: SimpleQueue[tuple[Item] | None] = SimpleQueue()
        self._outcomes: SimpleQueue[Done[Item, Result] | BaseException] = SimpleQueue()
        self._threads = [Thread(target=self._serve, name=f"stage-{i}", daemon=True) for i in range(LEASES)]
        for thread in self._threads:
            thread.start()

    def give(self, item: Item) -> None:
        """Start an item."""
        self.in_flight += 1
        self._items.put((item,))

    def take(self) -> Done[Item, Result]:
        """Wait for whichever item is ready first; raises what its function raised."""
        outcome = self._outcomes.get()
        self.in_flight -= 1
        if isinstance(outcome, SystemExit):
            raise _exited(outcome) from outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def end(self, timeout: float | None) -> None:
        """Let the threads finish what they hold, and wait for them: for `timeout` seconds each, or as long as it takes."""
        for _ in self._threads:
            self._items.put(None)
        for thread in self._threads:
            thread.join(timeout)

    def _serve(self) -> None:
        while (given := self._items.get()) is not None:
            try:
                self._outcomes.put(Done(given[0], self._work(given[0])))
            except BaseException as error:  # noqa: BLE001 - handed over to the caller, who raises it
                self._outcomes.put(error)
