"""An embedded Prefect server: on this machine's loopback, with scheduler and page, as long as its owner lives."""

from __future__ import annotations

import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.settings import PREFECT_API_URL, temporary_settings

from shardlens.pipeline.errors import ConfigError, ExecutionError

HOST = "127.0.0.1"
PORT = 4200
START_S = 120.0
STOP_S = 15.0


@contextmanager
def prefect_server(port: int | None = None) -> Iterator[str]:
    """Give the URL of the API of the server that PREFECT_API_URL (or Prefect's profile) names, else of one started here.

    Args:
        port: of the server started here; None = 4200, or a free one where that is taken.

    Raises:
        ConfigError: a port was given, but another server is named, or something else listens there.
        ExecutionError: the server does not start.
    """
    named = PREFECT_API_URL.value()
    if named is not None:
        if port is not None:
            raise ConfigError(
                f"a port is given, but PREFECT_API_URL names a server already, {named}: expected one of them"
            )
        yield named
        return
    port = _free_port(port)
    url = f"http://{HOST}:{port}/api"
    command = [sys.executable, "-m", "shardlens.flows.server", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            _wait(process, url)
            with temporary_settings({PREFECT_API_URL: url}):
                yield url
        finally:
            _stop(process)


def _free_port(wanted: int | None) -> int:
    for port in (PORT, 0) if wanted is None else (wanted,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ConfigError(f"port {wanted} of {HOST} is taken: name another with --port, or leave it out")


def answers(url: str) -> bool:
    """Whether a Prefect API is healthy at `url`."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_S
    while not answers(url):
        if process.poll() is not None:
            raise ExecutionError(f"the Prefect server ended at its start, with status {process.returncode}: see above")
        if time.monotonic() > deadline:
            raise ExecutionError(f"the Prefect server did not answer at {url} within {START_S:.0f} s")
        time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _end_with_owner() -> None:
    """Wait until the owner's end of the pipe closes, as it does however the owner ends; then end this process."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main(port: str) -> None:
    """Run a server in this process until it is terminated, or standard input ends."""
    threading.Thread(target=_end_with_owner, daemon=True).start()
    os.environ.setdefault("PREFECT_SERVER_UI_API_URL", "/api")  # else the page asks port 4200, whatever the port is
    sys.argv = ["prefect", "--no-prompt", "server", "start", "--host", HOST, "--port", port]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1])
