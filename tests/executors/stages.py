"""Stages that write down each of their calls, and misbehave at items that are named."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from shardlens.pipeline.errors import StorageError, WeightsError

WAIT_S = 20.0


def close(outcomes: Iterator[object]) -> None:
    """Close what `map` gave, as the end of the loop that reads it does."""
    assert isinstance(outcomes, Generator)
    outcomes.close()


@dataclass(frozen=True)
class Square:
    """Squares integers."""

    folder: Path
    """Where `calls` gets a line for each call: item, process, thread."""
    deadly: tuple[int, ...] = ()
    """Items that end the process."""
    failing: int | None = None
    """The item that raises an error of ours."""
    broken: int | None = None
    """The item that hits a bug."""
    seconds: float = 0.0
    """How long an item takes."""

    def setup(self) -> Callable[[int], int]:
        note(self.folder / "setups", str(os.getpid()))
        return self.square

    def square(self, item: int) -> int:
        note(self.folder / "calls", f"{item} {os.getpid()} {threading.get_ident()}")
        if item in self.deadly:
            os._exit(7)
        if item == self.failing:
            raise StorageError(f"item {item} cannot be read")
        if item == self.broken:
            return item // 0
        time.sleep(self.seconds)
        return item * item


@dataclass(frozen=True)
class Meet:
    """Each item waits until another one is under way."""

    folder: Path

    def setup(self) -> Callable[[int], int]:
        return self.meet

    def meet(self, item: int) -> int:
        note(self.folder / "calls", f"{item} {os.getpid()} {threading.get_ident()}")
        wait_until(lambda: len(lines(self.folder / "calls")) > 1)
        return item


@dataclass(frozen=True)
class Hold:
    """Each item takes until there is a file `end`."""

    folder: Path

    def setup(self) -> Callable[[int], int]:
        return self.hold

    def hold(self, item: int) -> int:
        note(self.folder / "calls", f"{item} {os.getpid()} {threading.get_ident()}")
        wait_until((self.folder / "end").exists)
        return item


@dataclass(frozen=True)
class Environment:
    """Tells variables of the process that it runs in."""

    def setup(self) -> Callable[[str], str | None]:
        return os.environ.get


@dataclass(frozen=True)
class Unset:
    """Cannot be set up: raises an error of ours, or dies the first `deaths` times, or every time but the first."""

    folder: Path
    deaths: int = 0
    once: bool = False

    def setup(self) -> Callable[[int], int]:
        note(self.folder / "setups", str(os.getpid()))
        setups = len(lines(self.folder / "setups"))
        if setups <= self.deaths or (self.once and setups > 1):
            os._exit(7)
        if not self.deaths and not self.once:
            raise WeightsError("weights are damaged: expected 64 bytes, found 3")
        return self.patient if self.once else abs

    def patient(self, item: int) -> int:
        """Be at work while others die."""
        wait_until(lambda: len(lines(self.folder / "setups")) > 3)
        time.sleep(1)
        return item


def note(file: Path, line: str) -> None:
    """Append a line; whole, whoever else writes."""
    with file.open("a") as sink:
        sink.write(line + "\n")


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def calls(folder: Path) -> Counter[int]:
    """How often each item was given to the stage's function."""
    return Counter(int(line.split()[0]) for line in lines(folder / "calls"))


def workers(folder: Path) -> list[int]:
    """Processes that were given items, in order of their first one."""
    return list(dict.fromkeys(int(line.split()[1]) for line in lines(folder / "calls")))


def wait_until(met: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not met():
        assert time.monotonic() < deadline, f"not met in {WAIT_S} s"
        time.sleep(0.01)
