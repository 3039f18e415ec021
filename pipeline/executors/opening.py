"""Opening an executor by name; its module, and Ray, are imported only when it is asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from shardlens.pipeline.executors.base import EXECUTORS, Executor, ExecutorConfig
from shardlens.pipeline.storage.uris import redact

LOG = logging.getLogger("shardlens")


@contextmanager
def open_executor(config: ExecutorConfig | None = None) -> Iterator[Executor]:
    """Open the executor that `config` describes (default: this process), and close it at the end.

    Raises:
        ExecutionError: the cluster cannot be reached or started, or cannot hold the workers.
    """
    config = config or ExecutorConfig()
    spec = EXECUTORS[config.kind]
    if spec.cluster:
        apply_defaults()
    else:
        warn_of_address(config)
    module, _, name = spec.place.partition(":")
    executor: Executor = getattr(import_module(module), name)(config)
    try:
        yield executor
    finally:
        executor.close()


def warn_of_address(config: ExecutorConfig) -> None:
    """Log that the cluster of RAY_ADDRESS is not used."""
    if address := os.environ.get("RAY_ADDRESS"):
        LOG.warning(
            "RAY_ADDRESS is set (%s), but executor %s runs in this process: give --executor ray to use that cluster",
            redact(address),
            config.kind,
        )


def apply_defaults() -> None:
    """Set what Ray reads from the environment when it is imported, where the user has set nothing.

    RAY_LOG_TO_DRIVER=1 brings the workers' output here, for debugging; otherwise nothing that Ray forwards is printed,
    because it prints on standard output, among the results.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if os.environ.setdefault("RAY_LOG_TO_DRIVER", "0") == "0":
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
