"""The embedded server: which one is used, on which port, and that it ends with its owner."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from shardlens.flows.server import _bound, answers, prefect_server
from shardlens.pipeline.errors import ConfigError
from tests.conftest import free_ports

OWNER = """
import sys, time
from shardlens.flows.server import prefect_server
with prefect_server(int(sys.argv[1])) as url:
    print(url, flush=True)
    time.sleep(600)
"""


def test_a_server_that_is_named_is_used() -> None:
    with temporary_settings({PREFECT_API_URL: "http://prefect.example/api"}):
        with prefect_server() as url:
            assert url == "http://prefect.example/api"
        with (
            pytest.raises(ConfigError, match="a port is given, but PREFECT_API_URL names"),
            prefect_server(4200),
        ):
            pass


def test_a_port_that_is_taken_is_an_error_or_avoided() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} of 127\.0\.0\.1 is taken: name another with --port"):
            _bound(port)
        with _bound(None) as ours:
            assert ours.getsockname()[1] not in {0, port}
    assert not answers(f"http://127.0.0.1:{port}/api")


@pytest.mark.prefect
@pytest.mark.slow
def test_a_server_ends_with_its_owner_however_that_ends(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path)}
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-c", OWNER, str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline().strip() == f"http://127.0.0.1:{port}/api"
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while answers(f"http://127.0.0.1:{port}/api"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    _bound(port).close()
