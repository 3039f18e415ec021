"""One embedded Ray for the tests of this folder; it ends with them, for other tests need an environment of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shardlens.pipeline.executors.base import Executor, ExecutorConfig
from shardlens.pipeline.executors.opening import open_executor

TWO = ExecutorConfig(kind="ray", workers="1:2", cpus_per_worker=0.5)
"""Two workers, on one core as well."""


@pytest.fixture(scope="package")
def pool() -> Iterator[Executor]:
    """Two workers of an embedded Ray."""
    with open_executor(TWO) as executor:
        yield executor


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Each executor in turn."""
    if request.param == "ray":
        yield request.getfixturevalue("pool")
        return
    with open_executor() as local:
        yield local
