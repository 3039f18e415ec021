"""An embedded cluster from its start to its end, in drivers of their own; and clusters that are joined."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import free_ports
from tests.executors.stages import calls, wait_until

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
from shardlens.pipeline.executors.base import ExecutorConfig
from shardlens.pipeline.executors.opening import open_executor
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
    print(ray.is_initialized())
print(ray.is_initialized())
"""


@contextmanager
def driver(
    script: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    *arguments: str,
    stdin: int | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A program in a session of its own, which shows what it starts; warnings would be on its standard error."""
    command = [sys.executable, "-W", "always::FutureWarning", "-c", RUN + script, str(folder), *arguments]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**clean, **(environment or {})},
        start_new_session=True,
        stdin=stdin,
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


def test_a_cluster_that_is_joined_goes_on(asking: tuple[str, Path], tmp_path: Path) -> None:
    address, home = asking
    for _ in range(2):
        with driver(JOINING, tmp_path, {"RAY_ADDRESS": address, "HOME": str(home)}) as process:
            printed, complaints = process.communicate(timeout=120)
        assert (printed.splitlines(), complaints) == (["30", "True", "False"], "")


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


SOCKETS = """
with open_executor(ExecutorConfig(kind="ray", workers="1", cpus_per_worker=0.5)) as executor:
    next(outcomes := executor.map(Square(folder), range(5)))
    print("ready", flush=True)
    sys.stdin.read()
    outcomes.close()
"""


def listening(leader: int) -> dict[str, str]:
    """Addresses, in hexadecimal, on which processes of `leader`'s session listen, and their names."""
    sockets = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int((process / "stat").read_text().rpartition(")")[2].split()[3]) == leader:
                for file in (process / "fd").iterdir():
                    with suppress(OSError):
                        sockets[os.readlink(file)] = (process / "comm").read_text().strip()
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and (name := sockets.get(f"socket:[{rest[5]}]")):
                found[local.partition(":")[0]] = name
    return found


def test_an_embedded_cluster_listens_on_loopback_alone(tmp_path: Path) -> None:
    with driver(SOCKETS, tmp_path, stdin=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        found = listening(process.pid)
        process.communicate("", timeout=60)
    assert found
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert set(found) <= loopback, found


NODE_DIES = """
import signal, time
from shardlens.pipeline.executors.cluster import node_died
with open_executor(ExecutorConfig(kind="ray", workers="1", cpus_per_worker=0.5)) as executor:
    import ray
    outcomes = executor.map(Square(folder, seconds=0.1), range(10_000))
    next(outcomes)
    raylets = [info.process.pid for info in ray._private.worker._global_node.all_processes["raylet"]]
    begun = time.monotonic()
    os.kill(raylets[0], signal.SIGKILL)
    try:
        for _ in outcomes:
            pass
    except ShardlensError as error:
        print(round(time.monotonic() - begun), error, flush=True)
"""


def test_the_end_of_an_embedded_clusters_node_is_reported_at_once(tmp_path: Path) -> None:
    with driver(NODE_DIES, tmp_path) as process:
        printed, complaints = process.communicate(timeout=200)
    seconds, _, message = printed.strip().rpartition("\n")[2].partition(" ")
    assert "the embedded Ray cluster has ended: its node died" in message, complaints
    assert int(seconds) < 60


def test_a_run_that_is_terminated_ends_with_a_status_of_its_own(tmp_path: Path) -> None:
    with driver(FOR_LONG, tmp_path) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, complaints = process.communicate(timeout=60)
    assert (process.returncode, "terminate called" in complaints) == (143, False), complaints


JOINED = """
import time
begun = time.monotonic()
try:
    with open_executor(ExecutorConfig(kind="ray", address=sys.argv[2], workers="1", cpus_per_worker=0.5)) as executor:
        print("joined", sum(outcome.value for outcome in executor.map(Square(folder), range(5))))
except ShardlensError as error:
    print(time.monotonic() - begun < 20, error)
"""


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address and the home of a cluster as `ray start --head` starts it where an embedded one has left a token."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("a" * 64)
    short = tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp")  # paths of sockets have 107 bytes at most
    port, *others = free_ports(4)
    ports = dict(zip(("ray-client-server-port", "node-manager-port", "object-manager-port"), others, strict=True))
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--head",
        "--block",
        "--num-cpus=1",
        f"--port={port}",
    ]
    command += [
        "--include-dashboard=false",
        f"--temp-dir={short.name}",
        *(f"--{key}={value}" for key, value in ports.items()),
    ]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment = {
        **clean,
        "HOME": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(ROOT / ".src"),
    }
    log = (home / "log").open("w")
    with short, log, subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=ROOT) as process:
        wait_until(lambda: "runtime started" in (home / "log").read_text())
        yield f"127.0.0.1:{port}", home
        process.terminate()
        process.wait(timeout=60)


def joined(address: str, home: Path, folder: Path, **more: str) -> str:
    with driver(JOINED, folder, {"HOME": str(home), **more}, address) as process:
        return process.communicate(timeout=120)[0].strip()


def test_what_ray_start_started_is_joined(asking: tuple[str, Path], tmp_path: Path) -> None:
    assert joined(*asking, tmp_path) == "joined 30"


def test_a_token_that_is_missing_or_wrong_is_named_at_once(asking: tuple[str, Path], tmp_path: Path) -> None:
    address, _ = asking
    missing = joined(address, tmp_path, tmp_path)
    assert missing.startswith(f"True the Ray cluster at '{address}' asks for a token, and there is none in {tmp_path}")
    wrong = joined(address, tmp_path, tmp_path, RAY_AUTH_TOKEN="b" * 64)
    assert wrong.startswith(f"True the Ray cluster at '{address}' refuses the token in RAY_AUTH_TOKEN: copy")
    off = joined(address, tmp_path, tmp_path, RAY_AUTH_MODE="disabled")
    assert "RAY_AUTH_MODE=disabled is set here" in off
