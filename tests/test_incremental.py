"""A run over a newer version of its dataset predicts what is new or changed, and carries the other rows over."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from shardlens.pipeline import storage
from shardlens.pipeline.cli.predict import lines
from shardlens.pipeline.errors import RunError
from shardlens.pipeline.executors.base import Executor, ExecutorConfig
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.inference.earlier_run import unchanged
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, PredictReport, predict
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.layout import Warehouse
from shardlens.pipeline.warehouse.runs import RunRecord
from tests.conftest import ROOT

MODEL = "tests.odd_models:SPEC"


@pytest.fixture(scope="module")
def local() -> Iterator[Executor]:
    with open_executor(ExecutorConfig()) as executor:
        yield executor


class Nights:
    """A folder that changes from night to night, and its dataset `d`."""

    def __init__(self, root: Path, executor: Executor) -> None:
        self.images, self.warehouse, self.log, self.executor = root / "i", str(root / "w"), root / "log", executor
        self.images.mkdir()
        self.log.mkdir()
        for number in range(1, 11):
            self.put(number)

    def put(self, number: int, name: str = "", shade: int = 0) -> None:
        """Write an image that tells its number."""
        pixels = np.random.default_rng(number + 1000 * shade).integers(0, 255, (20, 30, 3), dtype=np.uint8)
        pixels[0, 0, 0] = number
        Image.fromarray(pixels).save(self.images / (name or f"{number:03d}.png"))

    def ingest(self) -> None:
        ingest(IngestConfig(name="d", images=str(self.images), warehouse=self.warehouse), self.executor)

    def config(self, **settings: Any) -> PredictConfig:
        option = (f"log={self.log}", *settings.pop("option", ()))
        network = NetworkConfig(model=MODEL, option=option, weights="random")
        return PredictConfig("d", network=network, **{"shard_size": 4, "warehouse": self.warehouse, **settings})

    def predict(self, **settings: Any) -> PredictReport:
        return predict(self.config(**settings), self.executor)

    def night(self, **settings: Any) -> tuple[PredictReport, list[int]]:
        """Ingest and predict; the report, and the numbers of the images that the network saw."""
        self.ingest()
        shutil.rmtree(self.log)
        self.log.mkdir()
        report = self.predict(**settings)
        return report, sorted(int(line) for file in self.log.iterdir() for line in file.read_text().split())

    def record(self, run: str) -> RunRecord:
        return runs.open_committed(Warehouse(self.warehouse), run)

    def rows(self, run: str) -> list[pa.Table]:
        """Predictions and outcomes of a run, in the order of its parts."""
        record = self.record(run)
        return [
            pa.concat_tables(tables.from_bytes(storage.read(uri)).replace_schema_metadata(None) for uri in uris)
            for uris in (record.prediction_parts(), record.outcome_parts())
        ]


@pytest.fixture
def nights(tmp_path: Path, local: Executor) -> Nights:
    return Nights(tmp_path, local)


def test_the_second_night_predicts_what_is_new(nights: Nights) -> None:
    first, seen = nights.night()
    assert (seen, first.carried, first.predicted) == ([*range(1, 11)], 0, 10)
    nights.put(11, "000.png")  # sorts before all others
    nights.put(12)
    second, seen = nights.night()
    assert seen == [11, 12]
    assert (second.images, second.predicted, second.carried, second.carried_from) == (12, 2, 10, first.run)
    assert f"  2 predicted, 10 unchanged and carried over from run {first.run}" in lines(second)
    report = nights.record(second.run).commit
    assert report is not None
    assert (report.report["carried"], report.report["carried_from"]) == (10, first.run)


def test_the_rows_are_those_of_a_full_run(nights: Nights) -> None:
    nights.night()
    nights.put(3, shade=1)
    (nights.images / "005.png").unlink()
    (nights.images / "007.png").rename(nights.images / "renamed.png")
    nights.put(13)
    (nights.images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    second, seen = nights.night(max_quarantined=0.5)
    assert seen == [3, 7, 13]
    full, seen = nights.night(max_quarantined=0.5, full=True)
    assert seen == [1, 2, 3, 4, 6, 7, 8, 9, 10, 13]
    assert full.run != second.run
    assert nights.rows(second.run) == nights.rows(full.run)


def test_a_quarantined_image_is_tried_again_when_its_file_has_changed(nights: Nights) -> None:
    nights.night(option=("raise_on=4",), max_quarantined=0.5)
    nights.put(12)
    report, seen = nights.night(option=("raise_on=4",), max_quarantined=0.5)
    assert (seen, report.quarantined) == ([12], 1)
    nights.put(44, "004.png")
    report, seen = nights.night(option=("raise_on=4",), max_quarantined=0.5)
    assert (seen, report.quarantined) == ([44], 0)


def test_other_settings_carry_nothing(nights: Nights) -> None:
    nights.night()
    nights.put(12)
    report, seen = nights.night(batch_size=2)
    assert (len(seen), report.carried) == (11, 0)


def test_the_run_stands_when_the_earlier_one_is_gone(nights: Nights) -> None:
    first, _ = nights.night()
    nights.put(12)
    second, _ = nights.night()
    before = nights.rows(second.run)
    warehouse = Warehouse(nights.warehouse)
    for folder in (warehouse.run(first.run), warehouse.predictions("d", first.run), warehouse.outcomes("d", first.run)):
        shutil.rmtree(folder)
    assert nights.rows(second.run) == before
    assert nights.predict().predicted == 0  # the same command again


def test_images_of_damaged_parts_are_predicted(nights: Nights) -> None:
    first, _ = nights.night()
    part = Path(nights.record(first.run).prediction_parts()[1])
    part.write_bytes(part.read_bytes()[:-9] + b"x" * 9)
    nights.put(12)
    report, seen = nights.night()
    assert seen == [5, 6, 7, 8, 12]
    assert report.carried == 6
    full, _ = nights.night(full=True)
    assert nights.rows(report.run) == nights.rows(full.run)


def test_who_resumes_takes_the_same_earlier_run(nights: Nights) -> None:
    first, _ = nights.night()
    nights.put(12)
    nights.ingest()
    with pytest.raises(RunError, match="quarantined"):
        nights.predict(option=("raise_on=12",), max_quarantined=0.0)  # other settings: all is predicted
    bad = next(file for file in nights.images.iterdir() if file.name == "012.png")
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(RunError, match="1 of 11 images are quarantined"):
        nights.night(max_quarantined=0.0)
    begun = [each for each in runs.every(Warehouse(nights.warehouse)) if each.origin.get("carried_from")]
    assert [each.origin["carried_from"] for each in begun] == [first.run]
    shutil.rmtree(Warehouse(nights.warehouse).run(first.run))
    for uri in storage.walk(Warehouse(nights.warehouse).outcomes("d", begun[0].name)):
        storage.delete(uri.uri)
    report, seen = nights.night(max_quarantined=0.5)
    assert report.run == begun[0].name
    assert (report.carried, seen) == (0, [*range(1, 11)])


def test_the_record_says_what_was_carried(nights: Nights) -> None:
    first, _ = nights.night()
    nights.put(12)
    second, _ = nights.night()
    document = json.loads(Path(nights.record(second.run).folder, "run.json").read_text())
    assert document["origin"]["carried_from"] == first.run


@pytest.mark.parametrize(("size", "etag", "rows"), [(9, "x", [0]), (9, None, [0]), (None, None, [])])
def test_an_image_of_which_no_size_is_known_may_have_changed(
    size: int | None, etag: str | None, rows: list[int]
) -> None:
    row = {"image_id": 1, "file_name": "a.png", "uri": "/a.png", "width": 3, "height": 2, "flags": []}
    images = tables.from_rows([{**row, "bytes": size, "etag": etag}], tables.IMAGES)
    assert unchanged(images, images).tolist() == rows


MOMENTS = int(os.environ.get("SHARDLENS_CRASHES", "2"))
"""How many random moments the second night is killed at."""
DRIVER = """
import pickle, sys
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.predict import predict
with open_executor() as executor:
    config = pickle.load(sys.stdin.buffer)
    print("ready", flush=True)
    print(predict(config, executor).carried, flush=True)
"""


@pytest.mark.slow
def test_a_second_night_that_is_killed_ends_in_the_same_rows(nights: Nights) -> None:
    nights.night(option=("sleep=0.01",))
    for number in range(11, 31):
        nights.put(number)
    nights.ingest()
    config = nights.config(option=("sleep=0.01",))
    full = nights.predict(option=("sleep=0.01",), full=True)
    begun = time.monotonic()
    undisturbed = nights.predict(option=("sleep=0.01",), run="undisturbed")
    took = time.monotonic() - begun
    assert nights.rows(undisturbed.run) == nights.rows(full.run)
    for moment in range(MOMENTS):
        asked = replace(config, run=f"killed-{moment}")
        killed_after(asked, random.Random(moment).uniform(0, took))
        assert predict(asked, nights.executor).images == 30
        assert nights.rows(asked.run or "") == nights.rows(full.run), moment


def killed_after(config: PredictConfig, seconds: float) -> None:
    """Begin a prediction in a process of its own and kill it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        pickle.dump(config, process.stdin)
        process.stdin.close()
        process.stdout.readline()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.kill()
