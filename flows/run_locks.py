"""Which flow runs are alive on this machine: each holds a lock for as long as its process lives, however that ends."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_HOME

FOLDER = "shardlens-runs"
LOCKS: dict[UUID, int] = {}
"""Descriptors of this process's locks: open until it ends."""


def _folder() -> Path:
    return Path(PREFECT_HOME.value()) / FOLDER


def hold_run_lock(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Lock a flow run that begins in this process; a hook of Prefect's for `on_running`."""
    if flow_run.id in LOCKS:
        return
    _folder().mkdir(parents=True, exist_ok=True)
    descriptor = os.open(_folder() / str(flow_run.id), os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    LOCKS[flow_run.id] = descriptor


def is_dead(run: UUID) -> bool:
    """Whether a flow run began on this machine, and its process is gone. False for runs of other machines."""
    with suppress(FileNotFoundError), open(_folder() / str(run), "rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
    return False


def forget_ended() -> None:
    """Delete the lock files of runs whose process is gone."""
    with suppress(FileNotFoundError):
        for file in _folder().iterdir():
            if is_dead(UUID(file.name)):
                file.unlink(missing_ok=True)
