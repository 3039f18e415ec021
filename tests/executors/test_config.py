"""Which executors can be asked for."""

from __future__ import annotations

import pytest

from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.executors.base import ExecutorConfig


@pytest.mark.parametrize(
    ("workers", "bounds"), [(None, (1, None)), ("4", (1, 4)), ("2:8", (2, 8)), ("3:3", (3, 3))], ids=str
)
def test_bounds(workers: str | None, bounds: tuple[int, int | None]) -> None:
    assert ExecutorConfig(kind="ray", workers=workers).bounds == bounds


@pytest.mark.parametrize("workers", ["0", "0:4", "8:2", "two", "-1", "1:", ":2", "", "1:2:3"])
def test_workers_that_cannot_be(workers: str) -> None:
    with pytest.raises(ConfigError, match=f"workers '{workers}': expected MIN:MAX"):
        ExecutorConfig(kind="ray", workers=workers)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "spark"}, "executor 'spark': expected local or ray"),
        ({"cpus_per_worker": 0}, "cpus_per_worker is 0: expected a number above 0"),
        ({"cpus_per_worker": float("nan")}, "cpus_per_worker is nan"),
        ({"gpus_per_worker": -1}, "gpus_per_worker is -1: expected 0 or more"),
        ({"gpus_per_worker": 1.5}, "gpus_per_worker is 1.5: expected an integer, or a fraction of one GPU"),
        ({"start_timeout": 0}, "start_timeout is 0"),
        ({"workers": "1:2"}, "workers '1:2' need --executor ray"),
        ({"address": "head:6379"}, "address 'head:6379' names a Ray cluster: it needs --executor ray"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExecutorConfig(**settings)  # type: ignore[arg-type]


def test_one_local_worker_may_be_said() -> None:
    assert ExecutorConfig(workers="1").bounds == (1, 1)
