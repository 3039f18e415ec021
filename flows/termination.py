"""SIGTERM in a flow run stays a matter of Prefect's, which knows a cancellation from a crash; Ray takes the signal over."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from shardlens.pipeline.executors.base import Executor, ExecutorConfig
from shardlens.pipeline.executors.opening import open_executor


@contextmanager
def prefect_termination() -> Iterator[None]:
    """Answer the exit that Ray's handler of SIGTERM makes as the handler does that was set before."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
        return
    except SystemExit as error:
        if error.code != signal.SIGTERM or not callable(handler):
            raise
    handler(signal.SIGTERM, None)  # Prefect's notes what was asked for, and raises


@contextmanager
def stage_executor(config: ExecutorConfig) -> Iterator[Executor]:
    """Give the executor of a stage that runs as a task, with the handler of SIGTERM that was set before."""
    handler = signal.getsignal(signal.SIGTERM)
    with prefect_termination(), open_executor(config) as workers:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
        yield workers
