"""Who may use the embedded server: its user with the password, and nobody else on the machine or in the browser."""

from __future__ import annotations

import asyncio
import base64
import contextvars
import http.client
import json
import os
import stat
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.server.api.server import create_app
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_HOME, PREFECT_SERVER_API_AUTH_STRING, temporary_settings
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from shardlens.flows.credentials import auth_file, auth_string
from shardlens.pipeline.errors import AccessDeniedError

SOCKETS = ("events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled", "work_pools/p/workers/connect")
OUR_FLOW = """
import http.client, subprocess, sys
from urllib.parse import urlsplit
from prefect.settings import PREFECT_API_URL
from shardlens.flows.embedded import flow

@flow("look", lambda given: "look")
def look():
    place = urlsplit(PREFECT_API_URL.value())
    answers = []
    for host, method, path in ((place.netloc, "POST", "/api/deployments/filter"), ("evil.example", "GET", "/api/health")):
        connection = http.client.HTTPConnection(place.netloc)
        connection.request(method, path, headers={"Host": host})
        answers.append(connection.getresponse().status)
    print(*answers, place.netloc)

look()
look()
"""


def request(api: str, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer of the server's."""
    connection = http.client.HTTPConnection(urlsplit(api).netloc, timeout=30)
    content = None if body is None else json.dumps(body)
    connection.request(method, path, content, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, text


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.fixture
def deployment(client: SyncPrefectClient) -> uuid.UUID:
    """A deployment that an attacker would point elsewhere."""

    @flow(name="attacked")
    def attacked() -> None: ...

    flow_id = client.create_flow(attacked)
    return client.create_deployment(flow_id, name="nightly", entrypoint="shardlens.flows.inference.dataset_inference")


@pytest.mark.prefect
@pytest.mark.slow
def test_nobody_without_the_password_runs_a_command(
    prefect_api: str, client: SyncPrefectClient, deployment: uuid.UUID
) -> None:
    steps = [{"prefect.deployments.steps.run_shell_script": {"script": "touch owned"}}]
    change = {"entrypoint": "evil.py:flow", "pull_steps": steps}
    path = f"/api/deployments/{deployment}"
    for password in ("", "shardlens:", "shardlens:guess", ":"):
        attempt = {"Authorization": basic(password), "Content_Type": "application/json"}
        assert request(prefect_api, "PATCH", path, change, **attempt)[0] == 401
        assert request(prefect_api, "POST", f"{path}/create_flow_run", {}, **attempt)[0] == 401
    assert request(prefect_api, "PATCH", path, change)[0] == 401
    assert request(prefect_api, "POST", f"{path}/create_flow_run", {})[0] == 401
    untouched = client.read_deployment(deployment)
    assert (untouched.entrypoint, untouched.pull_steps) == ("shardlens.flows.inference.dataset_inference", [])
    assert not [run for run in client.read_flow_runs() if run.deployment_id == deployment]


@pytest.mark.prefect
@pytest.mark.slow
def test_every_verb_of_every_path_needs_the_password(prefect_api: str) -> None:
    """Health is open, so that a start can be awaited."""
    paths = create_app().api_app.openapi()["paths"]  # type: ignore[attr-defined]
    calls = [(verb.upper(), path) for path, verbs in paths.items() for verb in verbs]
    assert len(calls) > 150
    open_calls = set()
    for verb, path in calls:
        place = "/api" + path.replace("{", "").replace("}", "")
        if request(prefect_api, verb, place)[0] != 401:
            open_calls.add((verb, path))
    assert open_calls == {("GET", "/health"), ("GET", "/ready")}
    for verb in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "TRACE"):
        assert request(prefect_api, verb, "/api/deployments/filter")[0] in {401, 405}, verb


@pytest.mark.prefect
@pytest.mark.slow
@pytest.mark.parametrize("place", SOCKETS)
def test_no_socket_opens_without_the_password(prefect_api: str, place: str) -> None:
    url = f"{prefect_api.replace('http', 'ws')}/{place}"

    async def attempt(protocols: list[Subprotocol] | None, token: str | None) -> str:
        async with connect(url, subprotocols=protocols) as socket:
            await socket.send(json.dumps({"type": "auth", "token": token}))
            return str(await socket.recv())

    for protocols, token in ((None, None), ([Subprotocol("prefect")], None), ([Subprotocol("prefect")], "s:guess")):
        with pytest.raises((ConnectionClosed, InvalidStatus)):
            asyncio.run(attempt(protocols, token))
    with pytest.raises(InvalidStatus, match="400"):
        asyncio.run(foreign(url))


async def foreign(url: str) -> None:
    async with connect(url, additional_headers={"Host": "evil.example"}):
        pass


@pytest.mark.prefect
@pytest.mark.slow
def test_pages_of_others_are_not_answered(prefect_api: str) -> None:
    own = f"http://{urlsplit(prefect_api).netloc}"
    ask = {"Access_Control_Request_Method": "PATCH", "Access_Control_Request_Headers": "authorization"}
    for origin, allowed in ((own, own), ("http://evil.example", None), ("null", None), ("http://127.0.0.1:1", None)):
        for verb, path in (("OPTIONS", "/api/deployments/filter"), ("GET", "/api/health"), ("GET", "/ui-settings")):
            _, headers, _ = request(prefect_api, verb, path, Origin=origin, **(ask if verb == "OPTIONS" else {}))
            assert headers.get("access-control-allow-origin") == allowed, (origin, verb, path)


@pytest.mark.prefect
@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("localhost:4200", 200), ("evil.example", 400), ("127.0.0.1.evil.example", 400), ("", 400)],
)
def test_only_this_machines_names_are_answered(prefect_api: str, host: str, status: int) -> None:
    """A name that an attacker lets point to 127.0.0.1 would make the attacker's page the server's own."""
    for path in ("/api/health", "/", "/ui-settings"):
        assert request(prefect_api, "GET", path, Host=host)[0] == status


@pytest.mark.prefect
@pytest.mark.slow
def test_the_page_and_its_calls_work_with_the_password(prefect_api: str, tmp_path: Path) -> None:
    status, _, page = request(prefect_api, "GET", "/")
    assert (status, b"<html" in page) == (200, True)
    assert json.loads(request(prefect_api, "GET", "/ui-settings")[2])["auth"] == "BASIC"
    key = {"Authorization": basic(auth_string()), "Content_Type": "application/json"}
    assert request(prefect_api, "POST", "/api/flow_runs/filter", {}, **key)[0] == 200
    with temporary_settings({PREFECT_API_AUTH_STRING: auth_string()}), get_client(sync_client=True) as client:
        assert client.api_healthcheck() is None
        client.read_flow_runs()


@pytest.mark.prefect
@pytest.mark.slow
def test_no_command_line_shows_the_password(prefect_api: str) -> None:
    password = auth_string().encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            assert password not in (folder / "cmdline").read_bytes()
        except OSError:
            continue


@pytest.mark.prefect
@pytest.mark.slow
def test_a_flow_called_where_no_server_is_named_brings_one_that_is_closed_too(tmp_path: Path) -> None:
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path)}
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
        environment.pop(name, None)
    command = [sys.executable, "-c", OUR_FLOW]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    first, second = (line.split() for line in done.stdout.splitlines())
    assert first[:2] == ["401", "400"]
    assert first == second, "one server for all calls of a process"
    host, _, port = first[2].partition(":")
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection(host, int(port)).connect()


def test_the_password_is_for_its_user_alone(tmp_path: Path) -> None:
    with temporary_settings({PREFECT_HOME: tmp_path}):
        first = auth_string()
        assert len(first.removeprefix("shardlens:")) >= 43
        assert (auth_string(), stat.S_IMODE(auth_file().stat().st_mode)) == (first, 0o600)
        assert [file.name for file in tmp_path.iterdir()] == [auth_file().name]


@pytest.mark.parametrize("spoil", ["chmod", "empty", "link"])
def test_a_password_that_others_know_or_made_is_replaced(tmp_path: Path, spoil: str) -> None:
    with temporary_settings({PREFECT_HOME: tmp_path}):
        first = auth_string()
        if spoil == "chmod":
            auth_file().chmod(0o644)
        elif spoil == "empty":
            auth_file().write_text("")
        else:
            other = tmp_path / "theirs"
            auth_file().rename(other)
            auth_file().symlink_to(other)
        assert auth_string() != first
        assert (auth_file().is_symlink(), stat.S_IMODE(auth_file().stat().st_mode)) == (False, 0o600)


def test_two_that_start_at_once_have_one_password(tmp_path: Path) -> None:
    made = []
    with temporary_settings({PREFECT_HOME: tmp_path}):
        contexts = [contextvars.copy_context() for _ in range(8)]
        threads = [
            threading.Thread(target=context.run, args=(lambda: made.append(auth_string()),)) for context in contexts
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(made)) == 1


def test_a_password_that_cannot_be_kept_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        temporary_settings({PREFECT_HOME: tmp_path / "file"}),
        pytest.raises(AccessDeniedError, match=r"password cannot be kept in .*file/shardlens-auth .* PREFECT_HOME"),
    ):
        auth_string()


def test_a_password_of_ones_own_is_used(tmp_path: Path) -> None:
    with temporary_settings({PREFECT_HOME: tmp_path, PREFECT_SERVER_API_AUTH_STRING: "me:mine"}):
        assert auth_string() == "me:mine"
    assert not list(tmp_path.iterdir())
