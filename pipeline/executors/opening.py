"""Opening an executor, Ray only when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from shardlens.pipeline.executors.base import Executor, ExecutorConfig
from shardlens.pipeline.executors.local import LocalExecutor


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
    apply_defaults()
    from shardlens.pipeline.executors.ray import RayExecutor  # seconds that local runs need not wait

    return RayExecutor(config)


def apply_defaults() -> None:
    """Set what Ray reads from the environment when it is imported, where the user has set nothing.

    RAY_LOG_TO_DRIVER=1 brings the workers' output here, for debugging; otherwise nothing that Ray forwards is printed,
    because it prints on standard output, among the results.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if os.environ.setdefault("RAY_LOG_TO_DRIVER", "0") == "0":
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
