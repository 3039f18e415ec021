"""Logs for people: an error that explains itself needs no traceback."""

from __future__ import annotations

import logging

from shardlens.pipeline.errors import ShardlensError

RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


def without_traceback(record: logging.LogRecord) -> bool:
    """Filter that takes the traceback off the record of a ShardlensError; the record itself always passes."""
    if record.exc_info and isinstance(record.exc_info[1], ShardlensError):
        record.exc_info = None
    return True


def leave_out_tracebacks() -> None:
    """Set the filter on the logs of flow runs and task runs; once is enough, and again is harmless."""
    for name in RUN_LOGGERS:
        logging.getLogger(name).addFilter(without_traceback)
