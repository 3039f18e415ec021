"""Which worker takes which item next, and who is blamed when a worker dies. Knows nothing of Ray or of time."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from shardlens.pipeline.executors.base import Item

Worker = TypeVar("Worker", bound=Hashable)


@dataclass(eq=False)
class Lease(Generic[Item]):
    """An item on its way through the workers."""

    item: Item
    attempts: int = 0
    """How often it was given to a worker."""


class Leases(Generic[Worker, Item]):
    """Deals items to workers, two to each, so that the second one's images are fetched while the first computes.

    When a worker dies, both of its items are suspects and only one is guilty. A suspect is therefore tried again on
    a worker that holds nothing else: from the second attempt on, whatever dies was alone and is to blame. Where only
    one attempt is allowed, every item is alone from the start.
    """

    def __init__(self, items: Iterable[Item], attempts: int, ahead: int) -> None:
        """`attempts` are allowed for an item in all; `ahead` items are taken from `items` before they are needed."""
        self._source = iter(items)
        self._allowed = attempts
        self._ahead = ahead
        self._fresh: deque[Lease[Item]] = deque()
        self._suspects: deque[Lease[Item]] = deque()
        self._held: dict[Worker, list[Lease[Item]]] = {}

    def waiting(self) -> int:
        """Items that no worker holds; of those not yet tried, at most `ahead` are known."""
        self._fresh.extend(Lease(item) for item in islice(self._source, self._ahead - len(self._fresh)))
        return len(self._fresh) + len(self._suspects)

    def holds(self, worker: Worker) -> int:
        """How many items a worker holds; 0 as well for one that has not joined or has left."""
        return len(self._held.get(worker, ()))

    def join(self, worker: Worker) -> None:
        """A worker is ready."""
        self._held[worker] = []

    def leave(self, worker: Worker) -> None:
        """A worker takes nothing more; what it holds is still to be reported by `done` or `died`."""
        self._held.pop(worker, None)

    def next(self, coming: int) -> tuple[Worker, Lease[Item]] | None:
        """Deal one item. None = nothing to do, or nobody to do it.

        For each of the `coming` workers one of the last items is kept back, so that a run of as many items as workers
        uses all of them.
        """
        known = self.waiting()
        idle = next((worker for worker, held in self._held.items() if not held), None)
        if self._suspects:  # until one is alone with a worker, nobody gets a second item
            return None if idle is None else self._deal(idle, self._suspects)
        if idle is not None:
            return self._deal(idle, self._fresh) if known else None
        single = next((worker for worker, held in self._held.items() if self._may_share(held)), None)
        return self._deal(single, self._fresh) if single is not None and known > coming else None

    def _may_share(self, held: list[Lease[Item]]) -> bool:
        return len(held) == 1 and held[0].attempts == 1 and self._allowed > 1

    def _deal(self, worker: Worker, leases: deque[Lease[Item]]) -> tuple[Worker, Lease[Item]]:
        lease = leases.popleft()
        lease.attempts += 1
        self._held[worker].append(lease)
        return worker, lease

    def done(self, worker: Worker, lease: Lease[Item]) -> None:
        """A worker has given a lease back, the item processed."""
        if worker in self._held:
            self._held[worker].remove(lease)

    def died(self, worker: Worker, lease: Lease[Item]) -> bool:
        """A worker died with this lease; True = it was the item's last attempt."""
        self.leave(worker)
        if lease.attempts >= self._allowed:
            return True
        self._suspects.append(lease)
        return False
