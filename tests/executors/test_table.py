"""The table of executors: one from outside takes its place in it with a file and a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, cast, get_args

import pytest

from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.executors.base import EXECUTORS, Done, ExecutorConfig, ExecutorSpec, Item, Kind, Result, Stage
from shardlens.pipeline.executors.opening import open_executor


class OneByOne:
    """The smallest executor there is: an item after the other."""

    def __init__(self, config: ExecutorConfig) -> None:
        self.placement: Final = config.placement

    def map(self, stage: Stage[Item, Result], items: Iterable[Item], attempts: int = 3) -> Iterator[Done[Item, Result]]:
        work = stage.setup()
        return (Done(item, work(item)) for item in items)

    def close(self) -> None:
        """Nothing is held."""


def test_every_name_is_a_choice() -> None:
    assert get_args(Kind) == tuple(EXECUTORS)


def test_an_executor_from_outside_is_a_class_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ExecutorSpec("tests.executors.test_table:OneByOne", cluster=False)
    monkeypatch.setitem(EXECUTORS, "one-by-one", spec)
    asked = ExecutorConfig(kind=cast(Kind, "one-by-one"), cpus_per_worker=3)

    class Negate:
        def setup(self) -> type[int]:
            return int

    with open_executor(asked) as executor:
        assert executor.placement.threads == 3
        assert [done.value for done in executor.map(Negate(), ["1", "2"]) if isinstance(done, Done)] == [1, 2]
    with pytest.raises(ConfigError, match="workers '4' need --executor ray: the one-by-one executor is one process"):
        ExecutorConfig(kind=cast(Kind, "one-by-one"), workers="4")
