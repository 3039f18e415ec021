"""What a stage is and what an executor promises; the executors themselves stand in `pipeline.executors`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class Stage(Protocol[Item_contra, Result_co]):
    """A step of the data's way, small enough to be sent to a worker; the state it needs is made there by `setup`.

    A frozen dataclass of settings. `setup` runs once in each worker and returns the function that takes the items
    one by one; for a stage without state it returns a plain function. The function may be called from two threads
    at once (a worker leases two items, so that the next one's images are fetched while this one computes).
    """

    def setup(self) -> Callable[[Item_contra], Result_co]:
        """Load what is expensive, once, in the worker."""
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


class Executor(Protocol):
    """Where stages run. Results come in the order in which they are ready.

    `map` takes items as it needs them (bounded in flight), and raises the first `ShardlensError` that a stage
    raises, unchanged, after ending the work in flight. An item whose worker dies is tried again on another worker,
    `attempts` times in all, then given back as `Lost`.
    """

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


ProgressListener = Callable[[Progress], None]


def no_progress(progress: Progress) -> None:
    """Listen to nothing."""
