"""Kill the driver, a worker or the S3 server in the middle of a run: the same command ends in the same bytes."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shardlens.pipeline import storage
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, predict
from tests.conftest import ROOT, Bucket

IMAGES = 48
SHARD = 4
WORKERS = 2
MOMENTS = int(os.environ.get("SHARDLENS_CRASHES", "1"))
"""How many random moments each kind of kill is tried at."""

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def warehouse(s3: Bucket, tmp_path: Path) -> str:
    """Images and warehouse on the S3 server; an image tells its number by its first red value."""
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        pixels = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        pixels[0, 0, 0] = i + 1
        path = tmp_path / "image.png"
        Image.fromarray(pixels).save(path)
        storage.publish(f"{s3.uri}/images/{i + 1:03d}.png", path.read_bytes())
    root = f"{s3.uri}/warehouse"
    with open_executor() as executor:
        ingest(IngestConfig(name="numbered", images=f"{s3.uri}/images", warehouse=root), executor)
    return root


def start(warehouse: str, log: Path, run: str = "r") -> subprocess.Popen[str]:
    """Begin the run on two Ray workers, as a user would."""
    command = [
        str(Path(sys.executable).with_name("shardlens")),
        "predict",
        "numbered",
        "--warehouse",
        warehouse,
        "--run",
        run,
    ]
    command += ["--model", "tests.odd_models:SPEC", "--weights", "random", "--precision", "fp32"]
    command += ["--option", f"log={log}", "--option", "sleep=0.05", "--shard-size", str(SHARD), "--batch-size", "2"]
    command += ["--executor", "ray", "--workers", f"{WORKERS}:{WORKERS}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def undisturbed(warehouse: str) -> None:
    """The same run, not interrupted and in this process: cheaper than on Ray, and the same bytes."""
    network = NetworkConfig(model="tests.odd_models:SPEC", option=("sleep=0.0",), weights="random")
    settings = {"run": "calm", "shard_size": SHARD, "batch_size": 2}
    with open_executor() as executor:
        predict(PredictConfig("numbered", network=network, warehouse=warehouse, precision="fp32", **settings), executor)


def finish(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    return said


def digests(warehouse: str, run: str = "r") -> dict[str, str]:
    found = {}
    for kind in ("predictions", "outcomes"):
        for entry in storage.walk(f"{warehouse}/{kind}/dataset=numbered/run={run}"):
            found[f"{kind}/{entry.name}"] = hashlib.sha256(storage.read(entry.uri)).hexdigest()
    return found


def seen(log: Path) -> Counter[int]:
    return Counter(int(line) for file in log.glob("*.txt") for line in file.read_text().split())


def wait_for_images(log: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until `count` images went through the model: some moment in the middle of the run."""
    deadline = time.monotonic() + 300
    while sum(seen(log).values()) < count and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def workers(log: Path) -> list[int]:
    return [int(file.stem) for file in log.glob("*.txt") if Path(f"/proc/{file.stem}").exists()]


@pytest.mark.parametrize("victim", ["driver", "worker", "server"])
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_kill_costs_no_row_and_at_most_two_shards_a_worker(
    warehouse: str, s3: Bucket, tmp_path: Path, victim: str, moment: int
) -> None:
    log = tmp_path / "log"
    log.mkdir()
    process = start(warehouse, log)
    wait_for_images(log, random.Random(f"{victim}{moment}").randint(2, IMAGES - 8), process)
    if victim == "driver":
        process.kill()
        process.communicate()
    elif victim == "worker":
        os.kill(workers(log)[0], signal.SIGKILL)
    else:
        s3.server.kill()
        time.sleep(1)
        s3.server.start()
    if victim == "driver" or process.wait(timeout=400) != 0:
        process = start(warehouse, log)
    finish(process)
    twice = sum(count - 1 for count in seen(log).values())
    assert set(seen(log)) == set(range(1, IMAGES + 1))
    assert twice <= 2 * SHARD * WORKERS
    undisturbed(warehouse)
    assert len(rows_only(warehouse, "r")) == IMAGES // SHARD
    assert rows_only(warehouse, "r") == rows_only(warehouse, "calm")


def rows_only(warehouse: str, run: str) -> dict[str, str]:
    """Digests of the prediction parts; the outcomes' footers name their run's fingerprint, which names the log's folder."""
    return {name: digest for name, digest in digests(warehouse, run).items() if name.startswith("predictions")}


def test_two_drivers_at_once_give_one_result(warehouse: str, tmp_path: Path) -> None:
    both = [start(warehouse, tmp_path) for _ in range(2)]
    said = [finish(process) for process in both]
    assert all(f"in {IMAGES} images" in text for text in said)
    assert len([name for name in digests(warehouse) if name.startswith("predictions")]) == IMAGES // SHARD


def test_ctrl_c_says_how_to_go_on_and_the_same_command_resumes(warehouse: str, tmp_path: Path) -> None:
    process = start(warehouse, tmp_path)
    wait_for_images(
        tmp_path, 2 * SHARD * WORKERS * 2 - SHARD, process
    )  # more than all leases hold: a shard is published
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted: what is finished is kept" in said
    assert "Traceback" not in said
    assert "shards were there already" in finish(start(warehouse, tmp_path))
