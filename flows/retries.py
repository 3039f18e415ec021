"""When a failed stage is retried, and how long it may take. Prefect retries stages; the executor retries shards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from shardlens.pipeline.errors import (
    AccessDeniedError,
    ConfigError,
    DatasetError,
    LocationNotFoundError,
    ModelError,
    QueryError,
    RunError,
    TrainingError,
)

T = TypeVar("T", bound=Task[Any, Any])

PERMANENT = (
    ConfigError,
    ModelError,
    DatasetError,
    RunError,
    QueryError,
    TrainingError,
    LocationNotFoundError,
    AccessDeniedError,
    *(TypeError, AttributeError, NameError, ImportError, AssertionError),
)
"""Errors that stay until a person changes something: a retry would only delay their message."""


@dataclass(frozen=True)
class RetryPolicy:
    """Retries and time limit of each stage."""

    retries: int = 2
    """Retries of a failed stage. Finished shards are skipped; errors in the settings are not retried."""
    retry_delay_seconds: float = 30.0
    """Seconds before the first retry; doubled for each further one."""
    timeout_hours: float = 24.0
    """Time limit of a stage, in hours. One that takes longer is stopped and, while retries are left, resumed."""

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ConfigError(f"retries is {self.retries}: expected 0 or more")
        if not 0 <= self.retry_delay_seconds < math.inf:
            raise ConfigError(f"retry_delay_seconds is {self.retry_delay_seconds}: expected 0 or more")
        if not 0 < self.timeout_hours < math.inf:
            raise ConfigError(f"timeout_hours is {self.timeout_hours}: expected a number above 0")

    def on(self, task: T) -> T:
        """Return `task` with this policy."""
        delays = [self.retry_delay_seconds * 2**attempt for attempt in range(self.retries)]
        return task.with_options(  # type: ignore[return-value]  # Prefect's stubs lose the task's type
            retries=self.retries, retry_delay_seconds=delays or 0, timeout_seconds=self.timeout_hours * 3600
        )


def worth_retrying(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether a retry may help, as Prefect's `retry_condition_fn`: not after an error that only a person can correct."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, PERMANENT)
