"""Opening an executor, Ray only when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.execution import Executor
from pipeline.executors.config import ExecutorConfig
from pipeline.executors.local import LocalExecutor


@contextmanager
def open_executor(config: ExecutorConfig | None = None) -> Iterator[Executor]:
    """Open the executor that `config` describes (None = this process), and close it at the end.

    Raises:
        ExecutionError: the cluster cannot be reached or started, or cannot hold the workers.
    """
    executor = _open(config or ExecutorConfig())
    try:
        yield executor
    finally:
        executor.close()


def _open(config: ExecutorConfig) -> Executor:
    if config.kind == "local":
        return LocalExecutor()
    from pipeline.executors.ray import RayExecutor  # seconds that local runs need not wait

    return RayExecutor(config)
