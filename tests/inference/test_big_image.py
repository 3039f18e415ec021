"""The memory of a worker that predicts an image of 300 megapixels in tiles."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from shardlens.pipeline import storage
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.inference.options import InferenceConfig
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, predict
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.drawn_images import picture

HEIGHT, WIDTH = 15_000, 20_000
MODEL = "tests.plain_segmenters:SPEC"


def predict_here(warehouse: str, model: str) -> None:
    """Predict and print the process's peak memory in MB; run in a process of its own."""
    asked = PredictConfig(
        "big",
        network=NetworkConfig(model=model, weights="random"),
        inference=InferenceConfig(tile=512, overlap=64),
        run="r",
        max_pixels=400_000_000,
        precision="fp32",
        warehouse=warehouse,
    )
    with open_executor() as executor:
        report = predict(asked, executor)
    # not getrusage's figure, which begins with what the parent had
    said = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (int(line.split()[1]) / 1024 for line in said if line.startswith("VmHWM"))
    print(json.dumps({"peak_mb": peak, "seconds": report.seconds, "predictions": report.predictions}))


@pytest.fixture(params=["jpg", "png"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """One image, the same smooth picture again and again."""
    folder = tmp_path
    (folder / "images").mkdir()
    pixels = np.tile(picture(1000, 1000), (HEIGHT // 1000, WIDTH // 1000, 1))
    if request.param == "jpg":
        (folder / "images" / "big.jpg").write_bytes(simplejpeg.encode_jpeg(pixels, quality=90))
    else:
        Image.fromarray(pixels).save(folder / "images" / "big.png", compress_level=1)
    with open_executor() as executor:
        ingest(IngestConfig("big", images=str(folder / "images"), warehouse=str(folder / "warehouse")), executor)
    return str(folder / "warehouse")


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_an_image_of_300_megapixels_takes_less_than_2_gb(warehouse: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.inference.test_big_image", warehouse, MODEL],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"\npeak {found['peak_mb']:.0f} MB, {found['seconds']:.0f} s")
    assert found["predictions"] >= 1
    assert found["peak_mb"] < 2000
    (part,) = runs.open_committed(Warehouse(warehouse), "r").prediction_parts()
    for row in tables.from_bytes(storage.read(part)).to_pylist():
        assert row["segmentation"]["size"] == [HEIGHT, WIDTH]
        assert 0 < row["area"] < HEIGHT * WIDTH


if __name__ == "__main__":
    predict_here(sys.argv[1], sys.argv[2])
