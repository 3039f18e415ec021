"""The README's shell lines run as they stand there, in a folder like the one they speak of."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shardlens import models
from shardlens.flows.shapes import draw_dataset
from shardlens.pipeline import storage
from shardlens.pipeline.networks import weights
from tests.conftest import ROOT, S3Server

LABELS = ("__background__", "disc", "square", "triangle")
SET_UP = {"make demo", "make test"}
"""What CI runs by itself."""
TINY_CFG = """
[net]
width=64
height=64
channels=3

[convolutional]
batch_normalize=1
filters=24
size=3
stride=8
pad=1
activation=leaky

[convolutional]
filters=24
size=1
stride=1
activation=linear

[yolo]
mask=0,1,2
anchors=10,10, 20,20, 30,30
classes=3
num=3
"""

pytestmark = [pytest.mark.slow, pytest.mark.s3, pytest.mark.ray, pytest.mark.prefect, pytest.mark.timeout(900)]


def blocks() -> list[list[str]]:
    """The README's shell blocks, each a list of commands without comments."""
    found = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    lines = [[line.partition("  #")[0].strip() for line in block.splitlines()] for block in found]
    return [[line for line in block if line and "=..." not in line and line not in SET_UP] for block in lines]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Data and checkpoints by the names that the README gives them."""
    draw_dataset(tmp_path / "data", {"train": 12, "val": 6}, size=64)
    for name, model, options in (("detector", "fcos_small", {}), ("segmenter", "unet", {"width": 4, "depth": 2})):
        network = models.build(model, len(LABELS), options)
        data = weights.save(network, weights.Checkpoint(model, options, LABELS))
        storage.publish(str(tmp_path / "checkpoints" / name / "model.safetensors"), data)
    (tmp_path / "yolo.cfg").write_text(TINY_CFG)
    (tmp_path / "yolo.names").write_text("disc\nsquare\ntriangle\n")
    network = models.build("darknet", 3, {"cfg": TINY_CFG})
    (tmp_path / "yolo.weights").write_bytes(network.save_darknet())
    return tmp_path


@pytest.fixture
def environment(s3_server: S3Server, folder: Path) -> dict[str, str]:
    """The S3 server holds `my-bucket` with photos; `shardlens` is on the path."""
    import s3fs

    fs = s3fs.S3FileSystem(
        key=s3_server.access_key, secret=s3_server.secret_key, endpoint_url=s3_server.endpoint, skip_instance_cache=True
    )
    fs.mkdir("my-bucket")
    fs.put(str(folder / "data" / "val" / "images"), "my-bucket/photos", recursive=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    home = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_LOGGING_LEVEL": "WARNING"}
    return {**os.environ, **s3_server.environment(), **home, "PATH": path}


def test_every_line_works(folder: Path, environment: dict[str, str]) -> None:
    for block in blocks():
        exports = [line for line in block if line.startswith("export ")]
        for line in block:
            if line.startswith("shardlens serve"):
                serve_and_stop(line, folder, environment)
            elif line not in exports:
                script = "\n".join([*exports, line])
                done = subprocess.run(
                    ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True
                )
                assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def serve_and_stop(line: str, folder: Path, environment: dict[str, str]) -> None:
    """Start serving, wait until it says that it does, and end it as Ctrl-C would."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {line}"], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = []
        for answer in process.stderr:
            said.append(answer)
            if "Ctrl-C stops it" in answer:
                process.send_signal(signal.SIGINT)
                break
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert "Ctrl-C stops it" in "".join(said)


def test_there_are_recipes_to_run() -> None:
    commands = {line.split()[1] for block in blocks() for line in block if line.startswith("shardlens ")}
    assert commands >= {
        "ingest",
        "predict",
        "evaluate",
        "train",
        "query",
        "export",
        "import",
        "serve",
        "runs",
        "models",
    }
