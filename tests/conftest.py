"""Real parts for the tests: a SeaweedFS server that speaks S3, the folder of real data, embedded Ray."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a job in the background has it; the processes that tests
    signal.signal(signal.SIGINT, signal.default_int_handler)  # interrupt would inherit that, and go on


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that none of these is begun last, while the other processes have ended."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder of the real data; the weights lie beside it."""
    folder = Path(os.environ.get("SHARDLENS_REALDATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: name its folder in SHARDLENS_REALDATA")
    return folder.resolve()


@dataclass
class S3Server:
    """A SeaweedFS server of our own on a free loopback port, with keys."""

    folder: Path
    port: int
    access_key: str
    secret_key: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def reader(self) -> dict[str, str]:
        """The environment of one who may only read."""
        return {**self.environment(), "AWS_ACCESS_KEY_ID": f"{self.access_key}-reader"}

    def start(self) -> None:
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        keys = {"name": "test", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        reading = [{"accessKey": f"{self.access_key}-reader", "secretKey": self.secret_key}]
        reader = {"name": "reader", "credentials": reading, "actions": ["Read", "List"]}
        (self.folder / "keys.json").write_text(json.dumps({"identities": [keys, reader]}))
        services = ("master", "volume", "filer")
        names = ("s3.port", "s3.port.grpc", *(f"{s}.port" for s in services), *(f"{s}.port.grpc" for s in services))
        ports = [self.port, *free_ports(len(names) - 1)]
        weed = Path(sys.executable).with_name("weed")
        command = [
            str(weed),
            "-logtostderr=true",
            "server",
            f"-dir={self.folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
        ]
        command += [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
        command += [
            "-s3",
            f"-s3.config={self.folder / 'keys.json'}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",
        ]
        command += ["-master.telemetry=false", "-volume.max=50", "-master.volumeSizeLimitMB=64"]
        log = (self.folder / "weed.log").open("ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        log.close()
        self.wait()

    def wait(self) -> None:
        """Until a signed request creates a bucket; a server that answers may not store yet."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.answers() and self.stores():
                return
            time.sleep(0.2)
        raise TimeoutError((self.folder / "weed.log").read_text()[-2000:])

    def answers(self) -> bool:
        try:
            urllib.request.urlopen(self.endpoint, timeout=1)
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def stores(self) -> bool:
        import s3fs

        fs = s3fs.S3FileSystem(
            key=self.access_key, secret=self.secret_key, endpoint_url=self.endpoint, skip_instance_cache=True
        )
        try:
            if not fs.exists("shardlens-test"):
                fs.mkdir("shardlens-test")
            fs.pipe_file("shardlens-test/.ready", b"1")
        except OSError:
            return False
        return True

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@dataclass
class Bucket:
    """A fresh prefix in the server's bucket."""

    server: S3Server
    uri: str
    bucket_uri: str = "s3://shardlens-test"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(
        tmp_path_factory.mktemp("weed"), free_ports(1)[0], "test-" + uuid.uuid4().hex[:12], uuid.uuid4().hex
    )
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A prefix of its own for each test, the credentials in the environment and in every connection."""
    from shardlens.pipeline import storage

    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    storage.forget_connections()  # of a test that had other credentials
    return Bucket(s3_server, f"s3://shardlens-test/bucket-{uuid.uuid4().hex[:8]}")
