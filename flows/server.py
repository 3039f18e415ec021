"""An embedded Prefect server: for its own user, on this machine's loopback, for as long as its owner lives.

Whoever can write to a Prefect server can run commands as the user whose runs it starts. So every request needs the
password of `credentials`, pages of other origins are not answered, and neither is a request for another host.
"""

from __future__ import annotations

import atexit
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import uvicorn
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, get_current_settings, temporary_settings
from starlette.middleware.trustedhost import TrustedHostMiddleware

from shardlens.flows.credentials import auth_string
from shardlens.pipeline.errors import ConfigError, ExecutionError

HOST = "127.0.0.1"
HOSTS = (HOST, "localhost")
"""What the embedded server may be called; a name of anybody else's that leads here is refused (DNS rebinding)."""
PORT = 4200
START_S = 120.0
STOP_S = 15.0


@contextmanager
def prefect_server(port: int | None = None) -> Iterator[str]:
    """Give the URL of the API of the server that PREFECT_API_URL (or Prefect's profile) names, else of one started here.

    Args:
        port: of the server started here; default: 4200, or a free one if that is taken.

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
    with _started(port) as (url, password), _connected(url, password):
        yield url


@contextmanager
def own_server() -> Iterator[None]:
    """Let flows called within report to a server, where none is named to one of this process, which ends with it."""
    if PREFECT_API_URL.value() is not None or FlowRunContext.get() is not None:
        yield
        return
    with _connected(*_of_this_process()):
        yield


@functools.cache
def _of_this_process() -> tuple[str, str]:
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(_started(None))


@contextmanager
def _connected(url: str, password: str) -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: password}):
        yield


@contextmanager
def _started(port: int | None) -> Iterator[tuple[str, str]]:
    """Run a server; gives its URL and the `user:password` that it asks for."""
    password = auth_string()
    with _bound(port) as listener:
        address = f"{HOST}:{listener.getsockname()[1]}"
        url = f"http://{address}/api"
        process = subprocess.Popen(
            [sys.executable, "-m", "shardlens.flows.server", str(listener.fileno())],
            env=_environment(address, password),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    with process:
        try:
            _wait(process, url)
            yield url, password
        finally:
            _stop(process)


def _environment(address: str, password: str) -> dict[str, str]:
    """The server's settings; only its own page may call it from a browser. (A command line could be read by all.)"""
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    defaults = {
        "PREFECT_SERVER_UI_API_URL": "/api",  # else the page asks port 4200, whatever the port is
        "PREFECT_UI_URL": f"http://{address}",  # links in alerts lead to the page
    }
    forced = {
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"http://{address}",
    }
    return {**defaults, **os.environ, **settings, **forced}


def _bound(wanted: int | None) -> socket.socket:
    """A socket on the port, held from now on: nobody else can take it and be sent the password."""
    for port in (PORT, 0) if wanted is None else (wanted,):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            listener.close()
            continue
        return listener
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


def main(descriptor: int) -> None:
    """Serve on a bound socket in this process until it is terminated, or standard input ends."""
    from prefect.server.api.server import create_app  # a second, and only the server's own process needs it

    threading.Thread(target=_end_with_owner, daemon=True).start()
    settings = get_current_settings().server
    app = TrustedHostMiddleware(create_app(final=True), allowed_hosts=HOSTS, www_redirect=False)
    config = uvicorn.Config(
        app,
        timeout_keep_alive=settings.api.keepalive_timeout,
        ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
        log_level=settings.logging_level.lower(),
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    main(int(sys.argv[1]))
