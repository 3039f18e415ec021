"""An embedded cluster from its start to its end, in drivers of their own; and clusters that are joined."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from shardlens.pipeline.executors.base import Executor
from tests.executors.stages import Square, calls, wait_until

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc"),
]
ROOT = Path(__file__).parents[2]

RUN = """
import os, sys
from pathlib import Path
from shardlens.pipeline.errors import ShardlensError
from shardlens.pipeline.executors.base import Lost
from shardlens.pipeline.executors import ExecutorConfig, open_executor
from tests.executors.stages import Square

folder = Path(sys.argv[1])
"""
ON_ONE_CORE = """
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
with open_executor(ExecutorConfig(kind="ray")) as executor:
    import ray
    print(ray.cluster_resources()["CPU"])
    outcomes = list(executor.map(Square(folder, deadly=(3,)), range(8)))
print(sorted(o.value for o in outcomes if not isinstance(o, Lost)), [o.item for o in outcomes if isinstance(o, Lost)])
try:
    open_executor(ExecutorConfig(kind="ray", address="127.0.0.1:1")).__enter__()
except ShardlensError as error:
    print(error)
"""
FOR_LONG = """
with open_executor(ExecutorConfig(kind="ray", cpus_per_worker=0.5)) as executor:
    for outcome in executor.map(Square(folder, seconds=0.5), range(10_000)):
        print(outcome.item, flush=True)
"""
JOINING = """
import ray
with open_executor(ExecutorConfig(kind="ray", workers="1", cpus_per_worker=0.5)) as executor:
    print(sum(outcome.value for outcome in executor.map(Square(folder), range(5))))
    print(ray.get_runtime_context().gcs_address == os.environ["RAY_ADDRESS"], ray.is_initialized())
print(ray.is_initialized())
"""


@contextmanager
def driver(script: str, folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A program of its own session, so that whatever it starts can be told; warnings would be on its standard error."""
    command = [sys.executable, "-W", "always::FutureWarning", "-c", RUN + script, str(folder)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**clean, **(environment or {})},
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def session(leader: int) -> list[str]:
    """Names of the living processes that `leader` started, and of theirs."""
    names = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, fields = stat.read_text().rsplit(")", 1)
            state, _, _, leads = fields.split()[:4]
            if int(leads) == leader and state != "Z":
                names.append(name)
    return names


def folders() -> set[Path]:
    return set(Path("/tmp").glob("ray-*"))


def test_one_core_is_enough_and_a_death_leaves_no_noise(tmp_path: Path) -> None:
    with driver(ON_ONE_CORE, tmp_path, {"HOME": str(tmp_path)}) as process:
        printed, complaints = process.communicate(timeout=120)
    cores, squares, unreachable = printed.splitlines()
    assert cores == "1.0"
    assert squares == "[0, 1, 4, 16, 25, 36, 49] [3]"
    assert unreachable.startswith(
        "no Ray cluster can be joined at '127.0.0.1:1' ([Errno 111] Connection refused): start"
    )
    assert complaints == ""
    assert calls(tmp_path)[3] == 3
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda end: end.name)
def test_the_cluster_ends_with_its_driver(end: signal.Signals, tmp_path: Path) -> None:
    before = folders()
    with driver(FOR_LONG, tmp_path) as process:
        assert process.stdout
        process.stdout.readline()
        [folder] = [f for f in folders() - before if f.name in "".join(commands(process.pid))]
        assert len(session(process.pid)) > 5
        process.send_signal(end)
        process.wait(timeout=30)
        begun = time.monotonic()
        wait_until(lambda: not session(process.pid))
        wait_until(lambda: not folder.exists())
        assert time.monotonic() - begun < 20  # Ray alone leaves two agents for a minute, and its folder for ever


def commands(leader: int) -> list[str]:
    """Command lines of the processes that `leader` started itself."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == leader:
                found.append((stat.parent / "cmdline").read_text())
    return found


def test_a_cluster_that_is_joined_goes_on(pool: Executor, tmp_path: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    with driver(JOINING, tmp_path, {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token"}) as process:
        printed, complaints = process.communicate(timeout=120)
    assert (printed.splitlines(), complaints) == (["30", "True True", "False"], "")
    assert [outcome.item for outcome in pool.map(Square(tmp_path), [9])] == [9]


def test_the_token_is_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shardlens.pipeline.executors.authentication import guard_token

    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token"
    for _ in range(2):
        guard_token()
        assert token.stat().st_mode & 0o777 == 0o600
        assert len(made := token.read_text()) == 64
        token.chmod(0o644)  # as Ray leaves it
    assert token.read_text() == made
    assert list(token.parent.iterdir()) == [token]
