"""What every executor promises."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from shardlens.pipeline.errors import StorageError, WeightsError
from shardlens.pipeline.executors.base import Done, Executor
from tests.executors.stages import WAIT_S, Hold, Meet, Square, Unset, calls, close, lines, wait_until

AHEAD = 6
"""Items that may be taken beyond those given back: two in flight for each of two workers, and one read ahead."""


class Tap:
    """Counts what is taken from it."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        for item in count():
            self.taken += 1
            yield item


def test_every_item_once(executor: Executor, tmp_path: Path) -> None:
    outcomes = list(executor.map(Square(tmp_path), range(30)))
    assert all(isinstance(outcome, Done) for outcome in outcomes)
    assert {outcome.item: outcome.value for outcome in outcomes} == {i: i * i for i in range(30)}
    assert calls(tmp_path) == dict.fromkeys(range(30), 1)


def test_two_runs_have_workers_of_their_own(executor: Executor, tmp_path: Path) -> None:
    for run in (1, 2):
        assert [outcome.item for outcome in executor.map(Square(tmp_path), [5])] == [5]
        assert len(lines(tmp_path / "setups")) == run


def test_no_items_need_no_worker(executor: Executor, tmp_path: Path) -> None:
    assert list(executor.map(Square(tmp_path), [])) == []
    assert not lines(tmp_path / "setups")


def test_items_are_taken_as_they_are_needed(executor: Executor, tmp_path: Path) -> None:
    tap = Tap()
    outcomes = executor.map(Square(tmp_path), tap)
    for received in range(1, 40):
        next(outcomes)
        assert tap.taken <= received + AHEAD
    close(outcomes)


def test_two_items_are_under_way_at_once(executor: Executor, tmp_path: Path) -> None:
    assert sorted(outcome.item for outcome in executor.map(Meet(tmp_path), [1, 2])) == [1, 2]


def test_an_error_of_ours_arrives_unchanged(executor: Executor, tmp_path: Path) -> None:
    received = []
    with pytest.raises(StorageError) as caught:
        received.extend(executor.map(Square(tmp_path, failing=3), count()))
    assert type(caught.value) is StorageError
    assert caught.value.args == ("item 3 cannot be read",)
    assert len(calls(tmp_path)) <= len(received) + 1 + AHEAD


def test_an_error_of_the_setup_arrives_unchanged(executor: Executor, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        list(executor.map(Unset(tmp_path), range(9)))
    assert type(caught.value) is WeightsError
    assert str(caught.value) == "weights are damaged: expected 64 bytes, found 3"


def test_a_bug_shows_where_it_is(executor: Executor, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(executor.map(Square(tmp_path, broken=0), [0]))
    shown = str(caught.getrepr(style="long"))
    assert "return item // 0" in shown


def test_an_error_of_the_items_arrives(executor: Executor, tmp_path: Path) -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise OSError("listing ended")

    with pytest.raises(OSError, match="listing ended"):
        list(executor.map(Square(tmp_path), items()))


class Alarm(BaseException):
    """As Ctrl-C, or the end that a scheduler asks for."""


def ring(*_: object) -> None:
    raise Alarm


def test_a_signal_is_heard_while_items_are_under_way(executor: Executor, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGALRM, ring)
    threading.Thread(
        target=lambda: (wait_until((tmp_path / "calls").exists), os.kill(os.getpid(), signal.SIGALRM))
    ).start()
    with pytest.raises(Alarm):
        list(executor.map(Hold(tmp_path), range(3)))
    signal.signal(signal.SIGALRM, before)
    assert time.time() - (tmp_path / "calls").stat().st_mtime < WAIT_S / 2
    (tmp_path / "end").touch()


def test_closing_early_ends_the_work(executor: Executor, tmp_path: Path) -> None:
    outcomes = executor.map(Square(tmp_path, seconds=0.2), count())
    next(outcomes)
    close(outcomes)
    assert [outcome.value for outcome in executor.map(Square(tmp_path), [-7, -7])] == [49, 49]
    begun = calls(tmp_path)  # an item that was already dealt may begin while its worker's end is on its way
    assert begun.pop(-7) == 2
    assert sum(begun.values()) <= 1 + AHEAD
    time.sleep(0.5)
    assert calls(tmp_path) - begun == {-7: 2}
