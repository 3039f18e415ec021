"""`shardlens serve`: a schedule that starts runs by itself, and what is refused before it begins."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_HOME, temporary_settings

from shardlens.flows.credentials import auth_string
from shardlens.flows.cron import clock_change_note, first_run
from shardlens.flows.serve import ServeConfig, checked, placed, serve
from shardlens.pipeline.errors import ConfigError, DatasetError, ModelError
from shardlens.pipeline.predict import PredictConfig
from shardlens.pipeline.warehouse import runs
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.conftest import ROOT, free_ports
from tests.flows.seen import artifacts

WIRETAP = Path(__file__).with_name("wiretap")
LOOPBACK = re.compile(r"127\.0\.0\.1|::1|localhost|None|/.*")


@contextmanager
def served(shapes: PredictConfig, folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Serve in a process of its own, with a Prefect of its own; gives the process and the server's port."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "shardlens.flows.serve", shapes.dataset, "--port", str(port), *options]
    command += ["--warehouse", shapes.warehouse, "--model", "unet", "--weights", "random"]
    command += ["--labels", str(shapes.network.labels)]
    environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "WIRETAP_LOG": str(folder / "addresses.txt")}
    environment |= {"PYTHONPATH": f"{WIRETAP}:{os.environ.get('PYTHONPATH', ROOT)}"}
    environment.pop("PREFECT_API_URL", None)
    with subprocess.Popen(command, env=environment, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process, port
        finally:
            process.kill()


def waited(look: Callable[[], Any], seconds: float) -> Any:
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.5)
    return found


def completed(client: SyncPrefectClient) -> list[FlowRun]:
    return [run for run in client.read_flow_runs() if run.state is not None and run.state.is_completed()]


def hosts(log: Path) -> set[str]:
    """Where a served process and its children went."""
    addresses = [ast.literal_eval(line) for line in log.read_text().splitlines()]
    names = (address[0] if isinstance(address, tuple) else address for address in addresses)
    return {name.decode() if isinstance(name, bytes) else str(name) for name in names}


@pytest.mark.prefect
@pytest.mark.slow
def test_a_schedule_starts_a_run_by_itself(shapes: PredictConfig, tmp_path: Path) -> None:
    """Until its run is committed and its artifacts are on the server; then it ends, and no process of it remains."""
    with served(shapes, tmp_path, "--cron", "* * * * *") as (process, port):
        assert process.stderr is not None
        assert process.stderr.readline() == "starting a Prefect server on this machine\n"
        assert "dataset_inference/shapes-by-unet: '* * * * *' UTC" in process.stderr.readline()
        with (
            temporary_settings({PREFECT_HOME: tmp_path / "prefect"}),
            temporary_settings(
                {PREFECT_API_URL: f"http://127.0.0.1:{port}/api", PREFECT_API_AUTH_STRING: auth_string()}
            ),
            get_client(sync_client=True) as client,
        ):
            (run, *_) = waited(lambda: completed(client), 110)
            found = artifacts(client, run.id)
        process.terminate()
        _, said = process.communicate(timeout=30)
    assert (" by unet: semantic " in run.name, run.auto_scheduled) == (True, True)
    assert {"progress-predict-shapes", "run-shapes", "metrics-shapes"} < set(found)
    (record,) = runs.committed(Warehouse(shapes.warehouse))
    assert record.name in found["run-shapes"].data
    assert "stopped; the schedule is paused until it is served again" in said
    assert process.returncode == 0
    assert not {host for host in hosts(tmp_path / "addresses.txt") if not LOOPBACK.fullmatch(host)}
    assert not left_over(str(tmp_path))


def left_over(place: str) -> list[str]:
    """Command lines and environments of live processes that name `place`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            said = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        if place.encode() in said and folder.name != str(os.getpid()):
            found.append(folder.name)
    return found


def test_a_schedule_is_checked_before_it_begins(shapes: PredictConfig) -> None:
    assert checked(shapes, ServeConfig()).model == "unet"
    with pytest.raises(DatasetError, match="no dataset 'circles'"):
        checked(replace(shapes, dataset="circles"), ServeConfig())
    with pytest.raises(ConfigError, match="shapes@abc is one version of a dataset, and never changes"):
        checked(replace(shapes, dataset="shapes@abc"), ServeConfig())
    with pytest.raises(ModelError, match="no model is called 'unett'"):
        checked(replace(shapes, network=replace(shapes.network, model="unett")), ServeConfig())
    with pytest.raises(ConfigError, match="--run nightly cannot name the runs of a schedule"):
        serve(replace(shapes, run="nightly"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cron": "61 * * * *"}, r"cron '61 \* \* \* \*' is not a schedule: expected minute, hour"),
        ({"cron": "0 30 2 * * *"}, r"has 6 fields, and seconds or years are no part of it: expected minute"),
        ({"timezone": "Mars/Olympus"}, "time zone 'Mars/Olympus' is not known"),
        ({"name": "a/b"}, "deployment 'a/b' cannot be used as a name"),
    ],
)
def test_impossible_schedules_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServeConfig(**settings)


@pytest.mark.parametrize("line", ["0 0 31 2 *", "0 0 31 4,6 *", "0 0 30 2 *"])
def test_a_schedule_that_never_comes_true_is_refused(shapes: PredictConfig, line: str) -> None:
    with pytest.raises(ConfigError, match="never comes true"):
        checked(shapes, ServeConfig(cron=line))


def test_a_leap_day_comes_true() -> None:
    assert (first_run("0 0 29 2 *", "Europe/Berlin").month, first_run("0 0 29 2 *", "UTC").day) == (2, 29)


@pytest.mark.parametrize(
    ("line", "zone", "noted"),
    [
        ("0 * * * *", "Europe/Berlin", True),
        ("*/15 1-5 * * *", "America/New_York", True),
        ("30 2 * * *", "Europe/Berlin", False),
        ("0 * * * *", "UTC", False),
        ("0 * * * *", "Asia/Tokyo", False),
    ],
)
def test_what_a_change_of_the_clocks_does_is_reported(line: str, zone: str, noted: bool) -> None:
    note = clock_change_note(line, zone)
    assert (note is not None) is noted
    assert not noted or f"{zone} has summer time" in str(note)


def test_places_hold_in_any_folder(shapes: PredictConfig, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(drawn)
    network = replace(shapes.network, labels="labels.txt", weights="random")
    found = placed(replace(shapes, warehouse="here", network=network))
    assert (found.warehouse, found.network.labels) == (f"{drawn}/here", f"{drawn}/labels.txt")
    assert found.network.weights == "random"
    assert placed(replace(shapes, warehouse="s3://bucket/w")).warehouse == "s3://bucket/w"


@pytest.mark.prefect
@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_ctrl_c_is_heard_from_the_moment_that_it_is_offered(
    shapes: PredictConfig, tmp_path: Path, seconds: float
) -> None:
    with served(shapes, tmp_path, "--cron", "0 3 1 1 *") as (process, _):
        assert process.stderr is not None
        assert any("Ctrl-C stops it" in line for line in process.stderr)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=90)
    assert process.returncode == 0
    assert "stopped; the schedule is paused" in said
