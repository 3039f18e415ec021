"""The commands and the Python of every README run as they stand there, in a folder like the one they speak of."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shardlens import models
from shardlens.flows.synthetic_shapes import draw_dataset
from shardlens.pipeline import storage
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks import weights
from tests.conftest import ROOT, S3Server

LABELS = ("__background__", "disc", "square", "triangle")
READMES = (
    "README.md",
    "pipeline/README.md",
    "pipeline/training/README.md",
    "models/README.md",
    "flows/README.md",
    "deploy/README.md",
)
"""In the order in which they are run, in one folder: those of the folders go on where the first one ends."""
PYTHON_FIRST = ("flows/README.md",)
"""Those whose commands need what their first block of Python makes."""
RUN = ("shardlens ", "export ")
"""How lines begin that are run here; others (make, pip, docker, kubectl, ...) need what a test has not."""
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

pytestmark = [pytest.mark.slow, pytest.mark.s3, pytest.mark.ray, pytest.mark.prefect, pytest.mark.timeout(1200)]


def blocks(readme: str, language: str) -> list[str]:
    """The blocks of a README in a language, as they stand."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / readme).read_text(), re.DOTALL)


def commands(block: str) -> list[str]:
    """Lines of a shell block that are run, without comments; a backslash joins a line to the next."""
    lines = [line.partition("  #")[0].strip() for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith(RUN) and "=..." not in line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and checkpoints by the names that the READMEs give them."""
    place = tmp_path_factory.mktemp("readme")
    draw_dataset(place / "data", {"train": 12, "val": 6}, size=64)
    truth, images = str(place / "data" / "instances_val.json"), str(place / "data" / "val" / "images")
    demo = IngestConfig(
        "shapes", images=images, annotations=truth, split="val", warehouse=str(place / "demo/warehouse")
    )
    ingest(demo, LocalExecutor())
    networks: tuple[tuple[str, str, dict[str, int]], ...] = (
        ("checkpoints/detector", "fcos_small", {}),
        ("checkpoints/segmenter", "unet", {"width": 4, "depth": 2}),
        ("demo/warehouse/checkpoints/detector-training", "fcos_small", {}),
    )
    for name, model, options in networks:
        network = models.build(model, len(LABELS), options)
        data = weights.save(network, weights.Checkpoint(model, options, LABELS))
        storage.publish(str(place / name / "model.safetensors"), data)
    (place / "yolo.cfg").write_text(TINY_CFG)
    (place / "yolo.names").write_text("disc\nsquare\ntriangle\n")
    network = models.build("darknet", 3, {"cfg": TINY_CFG})
    (place / "yolo.weights").write_bytes(network.save_darknet())
    return place


@pytest.fixture(scope="module")
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


@pytest.mark.parametrize("readme", [readme for readme in READMES if (ROOT / readme).exists()])
def test_every_line_works(readme: str, folder: Path, environment: dict[str, str]) -> None:
    for block in blocks(readme, "python")[:1] if readme in PYTHON_FIRST else ():
        run([sys.executable, "-c", block], folder, environment)
    for block in blocks(readme, "sh"):
        lines = commands(block)
        exports = [line for line in lines if line.startswith("export ")]
        for line in lines:
            if line.startswith("shardlens serve"):
                serve_and_stop(line, folder, environment)
            elif line not in exports:
                run(["bash", "-c", "\n".join([*exports, line])], folder, environment)
    code = "\n".join(block for block in blocks(readme, "python") if "spark." not in block)
    if code:
        run([sys.executable, "-c", code], folder, environment)


def run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"


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


def test_there_are_commands_to_run() -> None:
    lines = [line for block in blocks("README.md", "sh") for line in commands(block)]
    named = {line.split()[1] for line in lines if line.startswith("shardlens ")}
    assert named >= {"ingest", "predict", "evaluate", "train", "query", "export", "import", "serve", "runs"}


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 160
    for readme in READMES:
        if (ROOT / readme).exists():
            targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / readme).read_text())
            local = [target for target in targets if "://" not in target]
            assert [target for target in local if not ((ROOT / readme).parent / target).exists()] == []
