"""One embedded Ray for the tests of this folder; it ends with them, for other tests need an environment of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shardlens.pipeline.executors.base import EXECUTORS, Executor, ExecutorConfig
from shardlens.pipeline.executors.opening import open_executor

TWO = ExecutorConfig(kind="ray", workers="1:2", cpus_per_worker=0.5)
"""Two workers, on one core as well."""


@pytest.fixture(scope="package")
def pool() -> Iterator[Executor]:
    """Two workers of an embedded Ray."""
    with open_executor(TWO) as executor:
        yield executor


def _each() -> Iterator[Any]:
    for name, spec in EXECUTORS.items():
        assert spec.cluster == (name == TWO.kind), f"executor {name!r} has a cluster: give it one in this file"
        yield pytest.param(name, marks=pytest.mark.ray if spec.cluster else ())


@pytest.fixture(params=_each())
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Each executor in turn."""
    if request.param == TWO.kind:
        yield request.getfixturevalue("pool")
        return
    with open_executor(ExecutorConfig(kind=request.param)) as opened:
        yield opened
