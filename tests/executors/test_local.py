"""Threads of the local executor: they end with the run."""

from __future__ import annotations

import threading
from itertools import count
from pathlib import Path

import pytest

from shardlens.pipeline.errors import ExecutionError, StorageError
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.executors.opening import open_executor
from tests.executors.stages import Square, calls, close


def stage_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("stage-")]


def test_threads_end_when_the_iterator_is_closed(tmp_path: Path) -> None:
    outcomes = LocalExecutor().map(Square(tmp_path), count())
    next(outcomes)
    assert len(stage_threads()) == 2
    close(outcomes)
    assert stage_threads() == []


def test_threads_end_with_an_error_after_the_item_under_way(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="item 0 cannot be read"):
        list(LocalExecutor().map(Square(tmp_path, failing=0, seconds=0.2), count()))
    assert stage_threads() == []
    assert calls(tmp_path) == {0: 1, 1: 1}


def test_a_cluster_that_is_named_and_not_used_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with open_executor():
        assert not caplog.messages
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with open_executor():
        (message,) = caplog.messages
    assert message.startswith(
        "RAY_ADDRESS is set (head:6379), but executor local runs in this process: give --executor ray"
    )


def test_code_that_exits_is_an_error_that_says_so(tmp_path: Path) -> None:
    class Exits(Square):
        def square(self, item: int) -> int:
            raise SystemExit(4)

    with pytest.raises(ExecutionError, match=r"called sys.exit\(4\)"):
        list(LocalExecutor().map(Exits(tmp_path), [1]))
