"""Which failures are tried again, how often, and how long a stage may take."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.client.schemas.objects import TaskRun
from prefect.states import Failed

from shardlens.flows import tasks
from shardlens.flows.retries import RetryPolicy, worth_retrying
from shardlens.pipeline import errors


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (errors.StorageUnavailableError("down"), True),
        (errors.StorageError("no space left"), True),
        (errors.ExecutionError("no workers"), True),
        (ConnectionResetError("gone"), True),
        (TimeoutError("slow"), True),
        (errors.ConfigError("batch_size is 0"), False),
        (errors.WeightsError("no weights"), False),
        (errors.DatasetError("no dataset"), False),
        (errors.RunError("other settings"), False),
        (errors.TrainingError("the loss is no number"), False),
        (errors.LocationNotFoundError("no bucket"), False),
        (errors.AccessDeniedError("wrong keys"), False),
        (TypeError("a fault of the program"), False),
    ],
)
def test_only_transient_errors_are_retried(error: Exception, again: bool) -> None:
    run = TaskRun(task_key="predict", dynamic_key="0")
    assert worth_retrying(tasks.predict, run, Failed(data=error)) is again


def test_a_task_takes_the_policy_of_its_run() -> None:
    task = RetryPolicy(retries=3, retry_delay_seconds=10, timeout_hours=0.5).on(tasks.predict)
    assert (task.retries, task.retry_delay_seconds, task.timeout_seconds) == (3, [10, 20, 40], 1800)
    assert (task.name, task.retry_condition_fn) == ("predict", worth_retrying)
    assert RetryPolicy(retries=0).on(tasks.predict).retries == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"retries": -1}, "retries is -1: expected 0 or more"),
        ({"retry_delay_seconds": -0.5}, r"retry_delay_seconds is -0\.5: expected 0 or more"),
        ({"timeout_hours": 0}, "timeout_hours is 0: expected a number above 0"),
        ({"timeout_hours": float("inf")}, "timeout_hours is inf: expected a number above 0"),
    ],
)
def test_impossible_policies_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.ConfigError, match=message):
        RetryPolicy(**settings)
