"""Logs of runs: an explained error comes without a traceback, a fault of the program with one; a canceled run is one line."""

from __future__ import annotations

import logging

import pytest

from shardlens.flows.log_filters import install, without_repetition, without_traceback
from shardlens.pipeline.errors import ConfigError


@pytest.mark.parametrize(("error", "traceback"), [(ConfigError("batch_size is 0"), False), (KeyError("x"), True)])
def test_only_explained_errors_lose_their_traceback(error: Exception, traceback: bool) -> None:
    record = logging.LogRecord("r", logging.ERROR, "f.py", 1, "failed: %r", (error,), (type(error), error, None))
    assert without_traceback(record)
    assert bool(record.exc_info) is traceback


@pytest.mark.parametrize(
    ("logger", "message", "kept"),
    [
        ("prefect.task_runs", "Crash detected! Execution was aborted by a termination signal.", False),
        ("prefect.task_runs", "Finished in state Crashed('Execution was aborted by a termination signal.')", False),
        ("prefect.flow_runs", "Finished in state Running()", False),
        ("prefect.engine", "Execution of flow run '1' was terminated.", False),
        ("prefect.flow_runs", "Flow run was cancelled.", True),
        ("prefect.flow_runs", "Crash detected! Execution was aborted by a termination signal.", True),
        ("prefect.task_runs", "Crash detected! The process ran out of memory.", True),
        ("prefect.engine", "Engine execution of flow run '1' exited with unexpected exception", True),
    ],
)
def test_the_end_of_a_run_is_one_line(logger: str, message: str, kept: bool) -> None:
    record = logging.LogRecord(logger, logging.ERROR, "f.py", 1, message, (), None)
    assert without_repetition(record) is kept


def test_the_filters_are_set_once() -> None:
    install()
    install()
    assert logging.getLogger("prefect.flow_runs").filters.count(without_traceback) == 1
