"""What keeps a schedule, with real processes: the last one that serves pauses it, dead runs give back their slot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import get_current_settings

from tests.conftest import ROOT

NEVER = 365 * 86400.0
"""Seconds between the schedule's runs, of which none is due then."""
NAME = "sleeper/nightly"


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A file that a run of the sleeping flow waits for the end of."""
    (tmp_path / "held").touch()
    return tmp_path / "held"


@contextmanager
def serving(prefect_api: str, every: float = NEVER) -> Iterator[subprocess.Popen[str]]:
    """A process that serves the sleeping flow, from the moment that it does."""
    environment = {**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True)}
    environment |= {"PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    command = [sys.executable, "-m", "tests.flows.sleeper", str(every)]
    with subprocess.Popen(
        command,
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stderr is not None
            assert any("Ctrl-C stops it" in line for line in process.stderr)
            yield process
        finally:
            process.kill()


def stopped(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    return process.communicate(timeout=90)[0].strip()


def waited(look: Callable[[], Any], seconds: float = 120) -> Any:
    """What `look` returns, as soon as that is something."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.5)
    return seen


def state(client: SyncPrefectClient, run: UUID) -> str:
    read = client.read_flow_run(run)
    assert read.state is not None
    return read.state.name or ""


def processes_of(run: UUID) -> list[int]:
    """Processes whose environment names a flow run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"PREFECT__FLOW_RUN_ID={run}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.prefect
@pytest.mark.slow
def test_the_last_one_that_serves_pauses_the_schedule(prefect_api: str, client: SyncPrefectClient) -> None:
    """As in a rolling restart, in both orders; and serving again goes on."""
    with serving(prefect_api) as first:
        with serving(prefect_api) as second:
            assert stopped(second) == "still served"
        assert not client.read_deployment_by_name(NAME).paused
        with serving(prefect_api) as third:
            assert stopped(first) == "still served"
            assert not client.read_deployment_by_name(NAME).paused
            assert stopped(third) == "paused"
    assert client.read_deployment_by_name(NAME).paused
    with serving(prefect_api) as again:
        assert not client.read_deployment_by_name(NAME).paused
        assert stopped(again) == "paused"


@pytest.mark.prefect
@pytest.mark.slow
def test_the_slot_of_a_dead_run_is_free_at_once(prefect_api: str, client: SyncPrefectClient, held: Path) -> None:
    """The machine fails in the middle of a run: the next one begins as soon as somebody serves again."""
    with serving(prefect_api) as process:
        deployment = client.read_deployment_by_name(NAME)
        dead = client.create_flow_run_from_deployment(deployment.id, parameters={"while_there": str(held)}).id
        waited(lambda: state(client, dead) == "Running")
        process.kill()
        for pid in processes_of(dead):
            os.kill(pid, signal.SIGKILL)
    assert state(client, dead) == "Running"
    following = client.create_flow_run_from_deployment(deployment.id).id
    with serving(prefect_api) as process:
        waited(lambda: state(client, dead) == "Crashed", 30)
        waited(lambda: state(client, following) == "Completed", 90)
        stopped(process)


@pytest.mark.prefect
@pytest.mark.slow
def test_a_run_by_hand_waits_and_the_schedules_own_is_left_out(
    prefect_api: str, client: SyncPrefectClient, held: Path
) -> None:
    with serving(prefect_api, 20.0) as process:
        deployment = client.read_deployment_by_name(NAME)
        first = client.create_flow_run_from_deployment(deployment.id, parameters={"while_there": str(held)}).id
        waited(lambda: state(client, first) == "Running")
        by_hand = client.create_flow_run_from_deployment(deployment.id).id
        waited(lambda: state(client, by_hand) == "AwaitingConcurrencySlot")
        left_out = waited(
            lambda: [
                run
                for run in client.read_flow_runs()
                if run.auto_scheduled and run.state and run.state.is_cancelled() and run.deployment_id == deployment.id
            ]
        )
        assert "a run of this schedule is under way" in (left_out[0].state.message or "")
        assert state(client, first) == "Running"
        assert state(client, by_hand) not in {"Running", "Completed"}
        held.unlink()
        waited(lambda: state(client, by_hand) == "Completed", 150)
        stopped(process)
