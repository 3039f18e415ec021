"""What the doctor finds: of this machine, of a store that works, of stores and servers that do not."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from shardlens.pipeline import doctor, storage
from shardlens.pipeline.cli.doctor import line
from shardlens.pipeline.doctor import Finding
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.conftest import ROOT, Bucket, free_ports


class Healthy(BaseHTTPRequestHandler):
    """Answers as Prefect's API does, and notes what was asked."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Open(Healthy):
    """Answers everybody."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()


class Closed(Healthy):
    """Health for everybody, the rest for who knows the password me:mine."""

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == "Basic bWU6bWluZQ=="
        self.send_response(200 if known or self.path == "/api/health" else 401)
        self.end_headers()


@contextmanager
def listening(answering: type[Healthy] = Healthy) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def states(root: str) -> list[tuple[str, str]]:
    return [(finding.part, finding.state) for finding in doctor.warehouse(root)]


def test_this_machine_is_well() -> None:
    found = [doctor.python(), doctor.packages(), *doctor.torch_devices()]
    assert [finding.part for finding in found] == ["python", "packages", "torch", "cpu", "gpu"]
    assert not [finding for finding in found if finding.state == "fail"]


def test_a_package_that_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "ailing-1.0.dist-info"
    info.mkdir()
    wanted = ["torch<1", "no-such-package", "numpy", "absent; extra == 'dev'"]
    lines = ["Metadata-Version: 2.1", "Name: ailing", "Version: 1.0", *(f"Requires-Dist: {each}" for each in wanted)]
    (info / "METADATA").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = doctor.packages("ailing")
    assert finding.state == "fail"
    assert finding.found.endswith(", expected <1; no-such-package is missing")
    assert "--constraint constraints.txt" in finding.remedy


def test_a_place_that_is_empty_stays_so(tmp_path: Path) -> None:
    assert states(str(tmp_path / "new" / "warehouse")) == [("warehouse", "warn"), ("storage", "ok")]
    assert not list(tmp_path.iterdir())


def test_a_warehouse_is_counted(tmp_path: Path) -> None:
    place = Warehouse(str(tmp_path))
    place.create()
    for run in ("a", "b"):
        storage.publish(place.path("runs", run, "run.json"), b"{}")
    (found, writing) = doctor.warehouse(str(tmp_path))
    assert (found.state, found.found) == ("ok", f"{tmp_path}: 0 datasets, 2 runs")
    assert (writing.state, storage.children(str(tmp_path))) == ("ok", ["runs/", "warehouse.json"])


def test_a_place_that_holds_something_else_is_reported(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    (found, _) = doctor.warehouse(str(tmp_path))
    assert (found.state, found.found) == ("fail", f"{tmp_path} is no warehouse, and holds holiday.jpg")
    assert "--warehouse" in found.remedy


def test_a_place_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (finding,) = [each for each in doctor.warehouse(str(tmp_path / "file" / "w")) if each.state == "fail"]
    assert str(tmp_path / "file") in finding.found


@pytest.mark.s3
def test_an_s3_store_that_works(s3: Bucket) -> None:
    assert states(s3.uri) == [("warehouse", "warn"), ("storage", "ok")]
    assert storage.children(s3.uri) == []


@pytest.mark.s3
def test_wrong_keys_and_missing_buckets_are_reported(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    (missing,) = doctor.warehouse("s3://no-such-bucket/w")
    assert (missing.state, "its bucket does not exist" in missing.found) == ("fail", True)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-key-of-mine")
    storage.forget_connections()
    (refused,) = doctor.warehouse(s3.uri)
    storage.forget_connections()
    assert (refused.state, "access denied" in refused.found) == ("fail", True)
    assert "wrong-key-of-mine" not in refused.found


def test_a_store_that_is_down_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:pass@127.0.0.1:{port}")
    (finding,) = doctor.warehouse("s3://bucket/w")
    assert finding.state == "fail"
    assert f"nothing answers at AWS_ENDPOINT_URL, http://***@127.0.0.1:{port}" in finding.found


def test_prefect_without_a_server_is_well() -> None:
    finding = doctor.prefect(None)
    assert (finding.state, "'shardlens serve' brings its own" in finding.found) == ("ok", True)


def test_prefects_server_is_asked_for_its_health() -> None:
    with listening() as url:
        assert doctor.prefect(f"{url}/api").state == "ok"
        wrong = doctor.prefect(url)
    assert (wrong.state, "it ends in /api" in wrong.remedy) == ("fail", True)
    away = doctor.prefect(f"{url}/api")
    assert (away.state, "does not answer" in away.found) == ("fail", True)
    assert doctor.prefect("nonsense").state == "fail"


def test_a_prefect_server_without_a_password_is_a_warning() -> None:
    with listening(Open) as url:
        finding = doctor.prefect(f"{url}/api")
    assert (finding.state, "answers without a password" in finding.found) == ("warn", True)
    assert "PREFECT_SERVER_API_AUTH_STRING=user:password" in finding.remedy


@pytest.mark.parametrize(
    ("password", "state", "words"),
    [
        ("me:mine", "ok", "answers"),
        ("me:yours", "fail", "refuses the password"),
        (None, "fail", "asks for a password, and none is set"),
    ],
)
def test_the_password_of_a_prefect_server_is_tried(
    password: str | None, state: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_KEY", raising=False)
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    if password is not None:
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", password)
    with listening(Closed) as url:
        finding = doctor.prefect(f"{url}/api")
    assert finding.state == state
    assert words in finding.found
    assert "mine" not in finding.found


@pytest.mark.ray
def test_ray_runs_something() -> None:
    finding = doctor.ray(None)
    assert (finding.state, "embedded, first result after" in finding.found) == ("ok", True)


@pytest.mark.ray
def test_a_ray_cluster_that_is_not_there_is_reported() -> None:
    (port,) = free_ports(1)
    finding = doctor.ray(f"127.0.0.1:{port}")
    assert (finding.state, finding.remedy) == ("fail", "--executor local works without Ray")
    assert "no Ray cluster can be joined" in finding.found


def test_a_remedy_stands_below_its_finding() -> None:
    assert line(Finding("gpu", "ok", "none")) == "ok    gpu        none"
    assert line(Finding("gpu", "warn", "a driver", "compare it")).split() == [
        "warn",
        "gpu",
        "a",
        "driver",
        "compare",
        "it",
    ]


def test_the_command_exits_with_1_if_something_fails(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    command = [sys.executable, "-c", "from shardlens.pipeline.cli import main; main()", "doctor", "--no-ray", "--json"]
    done = subprocess.run([*command, "--warehouse", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    found = {finding["part"]: finding["state"] for finding in json.loads(done.stdout)}
    assert (found["warehouse"], found["storage"], found["packages"]) == ("fail", "ok", "ok")
    assert "ray" not in found
