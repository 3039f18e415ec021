"""Logs for people: an error that explains itself has no traceback, and a canceled run has one line."""

from __future__ import annotations

import logging

from shardlens.pipeline.errors import ShardlensError

RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")
TERMINATED = "Execution was aborted by a termination signal"
REPEATED = {
    "prefect.task_runs": (TERMINATED,),
    "prefect.flow_runs": ("Finished in state Running()",),
    "prefect.engine": ("hook 'hold_run_lock'", "Hook 'hold_run_lock'", "was terminated."),
}
"""Parts of messages by logger that say nothing new: the flow run itself logs that it was canceled, or ended by a signal."""


def without_traceback(record: logging.LogRecord) -> bool:
    """Filter that takes the traceback off the record of a ShardlensError; the record itself always passes."""
    if record.exc_info and isinstance(record.exc_info[1], ShardlensError):
        record.exc_info = None
    return True


def without_repetition(record: logging.LogRecord) -> bool:
    """Filter that drops the records of a run's end that only repeat the flow run's own line."""
    return not any(part in record.getMessage() for part in REPEATED.get(record.name, ()))


def install() -> None:
    """Set the filters on the loggers of runs; once is enough, and again is harmless."""
    for name in RUN_LOGGERS:
        logger = logging.getLogger(name)
        logger.addFilter(without_traceback)
        logger.addFilter(without_repetition)
