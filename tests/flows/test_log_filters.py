"""Logs of runs: an explained error comes without a traceback, a fault of the program with one."""

from __future__ import annotations

import logging

import pytest

from shardlens.flows.log_filters import leave_out_tracebacks, without_traceback
from shardlens.pipeline.errors import ConfigError


@pytest.mark.parametrize(("error", "traceback"), [(ConfigError("batch_size is 0"), False), (KeyError("x"), True)])
def test_only_explained_errors_lose_their_traceback(error: Exception, traceback: bool) -> None:
    record = logging.LogRecord("r", logging.ERROR, "f.py", 1, "failed: %r", (error,), (type(error), error, None))
    assert without_traceback(record)
    assert bool(record.exc_info) is traceback


def test_the_filter_is_set_once() -> None:
    leave_out_tracebacks()
    leave_out_tracebacks()
    assert logging.getLogger("prefect.flow_runs").filters.count(without_traceback) == 1
