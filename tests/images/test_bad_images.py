"""A folder of good images and one of each kind of bad: the good are predicted, the bad quarantined with their reason."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import drawn_images

GOOD = 30
BAD = {
    "truncated.jpg": (drawn_images.encode(drawn_images.picture(200, 300))[:3000], "damaged or truncated"),
    "text.jpg": (b"I am a letter, not a photograph.", "not an image that can be read: 32 bytes of no known"),
    "empty.jpg": (b"", r"the object is empty \(0 bytes\)"),
    "forged.jpg": (drawn_images.forged_jpeg(), "65500x65500 = 4290 megapixels, more than the cap of 100"),
    "huge.jpg": (None, "20000x20000 = 400 megapixels, more than the cap of 100"),
}
ODD = {
    "cmyk.jpg": drawn_images.cmyk_jpeg(),
    "sixteen.png": drawn_images.sixteen_bit_png(),
    "palette.png": drawn_images.palette_png_with_alpha(),
    "turned.jpg": drawn_images.rotated_jpeg(drawn_images.picture(), 6),
    'a name\'s "ü".png': drawn_images.encode(drawn_images.picture(), "PNG"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(GOOD):
        (folder / f"good{i:02d}.jpg").write_bytes(drawn_images.encode(drawn_images.picture(120, 160, i)))
    for name, (data, _) in BAD.items():
        (folder / name).write_bytes(huge() if data is None else data)
    for name, data in ODD.items():
        (folder / name).write_bytes(data)
    return folder


def huge() -> bytes:
    """A genuine JPEG of 20000x20000 gray pixels."""
    return drawn_images.encode(Image.fromarray(np.full((20000, 20000), 90, np.uint8)))


def shardlens(warehouse: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("shardlens")), *words, "--warehouse", str(warehouse)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


@pytest.mark.slow
def test_every_good_image_is_predicted_and_every_bad_one_explained(folder: Path, tmp_path: Path) -> None:
    taken = shardlens(tmp_path / "w", "ingest", "photos", "--images", str(folder))
    assert taken.returncode == 0, taken.stderr
    model = ("predict", "photos", "--model", "ssdlite320_mobilenet_v3_large", "--weights", "random", "--run", "r")
    refused = shardlens(tmp_path / "w", *model)
    assert refused.returncode == 1
    assert "5 of 40 images are quarantined (12.5%)" in refused.stderr
    assert "Traceback" not in refused.stderr
    done = shardlens(tmp_path / "w", *model, "--max-quarantined", "0.2")
    assert done.returncode == 0, done.stderr
    sql = "SELECT file_name, status, stage, message FROM outcomes JOIN images USING (dataset, image_id) ORDER BY file_name"
    rows = json.loads(shardlens(tmp_path / "w", "query", sql, "--format", "json").stdout)
    status = {row["file_name"]: row for row in rows}
    assert {name for name, row in status.items() if row["status"] == "ok"} == set(status) - set(BAD)
    assert len(status) == GOOD + len(BAD) + len(ODD)
    for name, (_, reason) in BAD.items():
        assert re.search(reason, status[name]["message"]), status[name]


@pytest.mark.slow
def test_a_worker_stays_under_two_gigabytes(folder: Path, tmp_path: Path) -> None:
    shardlens(tmp_path / "w", "ingest", "photos", "--images", str(folder))
    code = (  # VmHWM and not ru_maxrss, which begins with the peak of the process that forks
        "import re, sys; from shardlens.pipeline.cli import build_app\n"
        "try: build_app()(sys.argv[1:])\n"
        "finally: print('peak', re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    words = ["predict", "photos", "--model", "ssdlite320_mobilenet_v3_large", "--weights", "random"]
    words += ["--max-quarantined", "1", "--warehouse", str(tmp_path / "w")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=200)
    peak = re.search(r"peak (\d+)", done.stdout)
    assert peak, done.stderr
    assert int(peak[1]) < 2_000_000  # kilobytes
