"""What is ended and removed after an embedded cluster, and what is left alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shardlens.pipeline.executors import keeper
from tests.executors.stages import wait_until

OPENS = "import sys, time; file = open(sys.argv[1] + '/log', 'a'); print(flush=True); time.sleep(60)"


@contextmanager
def daemon(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is named after the folder and has a file open in it, as Ray's have."""
    with subprocess.Popen([sys.executable, "-c", OPENS, str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        process.kill()


def test_users_of_the_folder_are_ended_and_the_folder_removed(tmp_path: Path) -> None:
    session, other = tmp_path / "session", tmp_path / "other"
    session.mkdir()
    other.mkdir()
    with daemon(session) as ours, daemon(other) as stranger:
        keeper.clear(str(session))
        assert ours.wait() == -9
        assert stranger.poll() is None
    assert not session.exists()
    assert other.exists()


def test_a_driver_with_an_open_log_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "session").mkdir()
    with (tmp_path / "session" / "driver.log").open("w"):
        assert list(keeper.users(str(tmp_path / "session"))) == []


def test_it_waits_until_its_input_is_closed(tmp_path: Path) -> None:
    session = tmp_path / "session"
    session.mkdir()
    with subprocess.Popen(
        [sys.executable, "-I", "-S", keeper.__file__, str(session)], stdin=subprocess.PIPE
    ) as process:
        assert process.stdin
        process.stdin.write(b"still here")
        process.stdin.flush()
        assert session.exists()
        process.stdin.close()
        wait_until(lambda: process.poll() is not None)
    assert process.returncode == 0
    assert not session.exists()
