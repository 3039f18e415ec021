"""When a stage that failed is tried again, and how long it may take. Prefect retries a stage; shards are the executor's."""

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

HOPELESS = (
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
"""Errors that stay until a person changes something: trying again would only hide their message for a while."""


@dataclass(frozen=True)
class Patience:
    """How often and how long a stage is tried."""

    retries: int = 2
    """Times that a failed stage is tried again; finished shards are skipped, and faults of the settings are not retried."""
    retry_delay_seconds: float = 30.0
    """Wait before the first retry; it doubles with each."""
    timeout_hours: float = 24.0
    """A stage that takes longer is stopped, and tried again while retries are left; it goes on where it was."""

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ConfigError(f"retries is {self.retries}: expected 0 or more")
        if not 0 <= self.retry_delay_seconds < math.inf:
            raise ConfigError(f"retry_delay_seconds is {self.retry_delay_seconds}: expected 0 or more")
        if not 0 < self.timeout_hours < math.inf:
            raise ConfigError(f"timeout_hours is {self.timeout_hours}: expected a number above 0")

    def on(self, task: T) -> T:
        """Return `task` with this patience."""
        delays = [self.retry_delay_seconds * 2**attempt for attempt in range(self.retries)]
        return task.with_options(  # type: ignore[return-value]  # Prefect's stubs lose the task's type
            retries=self.retries, retry_delay_seconds=delays or 0, timeout_seconds=self.timeout_hours * 3600
        )


def may_pass(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again may help: not with what only a person can change."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, HOPELESS)
