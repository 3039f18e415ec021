"""Prediction end to end on small images: rows, quarantine, resume, retry, isolation; locally and on Ray."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from PIL import Image

from shardlens.pipeline import storage
from shardlens.pipeline.cli import predict as cli
from shardlens.pipeline.errors import ConfigError, RunError
from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.base import Executor, ExecutorConfig
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.images.decode import Decoded
from shardlens.pipeline.inference import computing
from shardlens.pipeline.inference.forward import Forward
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, predict, prepare
from shardlens.pipeline.retry import retry_quarantined
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.layout import Warehouse

IMAGES = 20
MODEL = "tests.odd_models:SPEC"


@pytest.fixture
def local() -> Iterator[Executor]:
    with open_executor(ExecutorConfig()) as executor:
        yield executor


@pytest.fixture
def warehouse(tmp_path: Path, local: Executor) -> str:
    """Twenty images that tell their number, ingested as `numbered`."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        pixels = rng.integers(0, 255, (20 + i % 3, 30, 3), dtype=np.uint8)
        pixels[0, 0, 0] = i + 1
        Image.fromarray(pixels).save(folder / f"{i + 1:03d}.png")
    root = str(tmp_path / "warehouse")
    ingest(IngestConfig(name="numbered", images=str(folder), warehouse=root), local)
    return root


def config(warehouse: str, *options: str, **settings: object) -> PredictConfig:
    network = NetworkConfig(model=MODEL, option=options, weights="random")
    given = {"run": "r", "shard_size": 6, "batch_size": 4, "precision": "fp32", **settings}
    return PredictConfig("numbered", network=network, warehouse=warehouse, **given)  # type: ignore[arg-type]


def rows(warehouse: str, kind: str = "predictions") -> pa.Table:
    record = runs.open_committed(Warehouse(warehouse), "r")
    parts = record.prediction_parts() if kind == "predictions" else record.outcome_parts()
    return pa.concat_tables([tables.from_bytes(storage.read(uri)).replace_schema_metadata(None) for uri in parts])


def all_bytes(warehouse: str) -> dict[str, bytes]:
    return {
        f"{kind}/{entry.name}": storage.read(entry.uri)
        for kind in ("predictions", "outcomes")
        for entry in storage.walk(f"{warehouse}/{kind}")
    }


def seen(log: Path) -> Counter[int]:
    return Counter(int(line) for file in log.glob("*.txt") for line in file.read_text().split())


def test_every_image_has_its_rows_in_order(warehouse: str, local: Executor) -> None:
    report = predict(config(warehouse), local)
    assert (report.images, report.predictions, report.quarantined) == (IMAGES, 2 * IMAGES, 0)
    found = rows(warehouse)
    assert found["image_id"].to_pylist() == [i for i in range(1, IMAGES + 1) for _ in range(2)]
    assert found["rank"].to_pylist() == [0, 1] * IMAGES
    assert set(found["category"].to_pylist()) == {"disc", "square"}
    boxes = {tuple(b.values()) for b in found.filter(pc.equal(found["image_id"], 1))["bbox"].to_pylist()}
    assert boxes == {(1.0, 2.0, 14.0, 8.0), (0.0, 0.0, 30.0, 20.0)}


def test_the_report_and_the_commit_say_where_the_time_went(warehouse: str, local: Executor) -> None:
    report = predict(config(warehouse, "sleep=0.01"), local)
    assert list(report.stages) == ["fetch", "decode", "wait", "forward", "postprocess_wait", "rows", "write"]
    assert report.stages["forward"] >= 0.01 * IMAGES
    assert 0 < report.device_wait < 1
    commit = json.loads(storage.read(f"{Warehouse(warehouse).run('r')}/commit.json"))
    assert commit["report"]["stages"].keys() == report.stages.keys()


@pytest.mark.long
def test_a_compiled_network_gives_the_same_rows(warehouse: str, local: Executor) -> None:
    network = NetworkConfig(model="fcos_small", weights="random", labels=labels(warehouse), score_threshold=0.0)
    plain = replace(config(warehouse), network=network)
    predict(plain, local)
    expected = rows(warehouse)
    predict(replace(plain, run="compiled", compiled=True), local)
    found = pa.concat_tables(
        tables.from_bytes(storage.read(uri)).replace_schema_metadata(None)
        for uri in runs.open_committed(Warehouse(warehouse), "compiled").prediction_parts()
    )
    assert found.drop(["score", "bbox", "area"]) == expected.drop(["score", "bbox", "area"])
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-4)


def labels(warehouse: str) -> str:
    """A file of three labels."""
    place = f"{warehouse}/../labels.txt"
    Path(place).write_text("disc\nsquare\ntriangle\n")
    return place


def test_the_same_command_has_nothing_left_to_do(warehouse: str, local: Executor, tmp_path: Path) -> None:
    predict(config(warehouse, f"log={tmp_path}"), local)
    before = all_bytes(warehouse)
    report = predict(config(warehouse, f"log={tmp_path}"), local)
    assert report.resumed_shards == 4
    assert set(seen(tmp_path).values()) == {1}
    assert all_bytes(warehouse) == before


def test_a_run_without_a_name_is_named_by_what_is_asked_for(warehouse: str, local: Executor) -> None:
    first = predict(config(warehouse, run=None), local)
    assert predict(config(warehouse, run=None), local).run == first.run
    assert predict(config(warehouse, run=None, batch_size=2), local).run != first.run


def test_other_settings_under_the_name_are_refused(warehouse: str, local: Executor) -> None:
    predict(config(warehouse), local)
    with pytest.raises(RunError, match=r"batch_size: 4 there, 3 here"):
        predict(config(warehouse, batch_size=3), local)


@pytest.mark.parametrize("option", ["raise_on=7", "nan_on=7", "raise_on=9", "nan_on=12"])
def test_an_image_that_fails_is_quarantined_alone(warehouse: str, local: Executor, option: str) -> None:
    report = predict(config(warehouse, option, max_quarantined=0.1), local)
    assert (report.predictions, report.quarantined) == (2 * IMAGES - 2, 1)
    outcomes = rows(warehouse, "outcomes").to_pylist()
    (bad,) = [row for row in outcomes if row["status"] != "ok"]
    assert (bad["image_id"], bad["stage"]) == (int(option.partition("=")[2]), "predict")
    assert "taste" in bad["message"] or "not finite" in bad["message"]


def test_too_many_failures_fail_the_run_after_all_is_written(warehouse: str, local: Executor) -> None:
    with pytest.raises(
        RunError, match=r"1 of 20 images are quarantined \(5.0%\), more than the 1.0%.*\n  \S.*\n.*not committed"
    ):
        predict(config(warehouse, "raise_on=7"), local)
    assert len(all_bytes(warehouse)) == 8
    assert predict(config(warehouse, "raise_on=7", max_quarantined=0.05), local).resumed_shards == 4


def test_only_the_quarantined_are_tried_again(warehouse: str, local: Executor, tmp_path: Path) -> None:
    bad = sorted((tmp_path / "images").iterdir())[8]
    good = bad.read_bytes()
    bad.write_bytes(good[:100])
    log = tmp_path / "log"
    log.mkdir()
    predict(config(warehouse, f"log={log}", max_quarantined=0.1), local)
    bad.write_bytes(good)
    report = retry_quarantined(warehouse, "r", local, model=MODEL)
    assert (report.quarantined, report.predictions) == (0, 2 * IMAGES)
    assert seen(log) == Counter(range(1, IMAGES + 1))
    assert rows(warehouse)["image_id"].to_pylist() == [i for i in range(1, IMAGES + 1) for _ in range(2)]
    assert set(rows(warehouse, "outcomes")["status"].to_pylist()) == {"ok"}


def test_a_retry_can_be_given_again_until_the_image_is_mended(warehouse: str, local: Executor, tmp_path: Path) -> None:
    bad = sorted((tmp_path / "images").iterdir())[8]
    good = bad.read_bytes()
    bad.write_bytes(b"")
    with pytest.raises(RunError, match="1 of 20"):
        predict(config(warehouse), local)
    with pytest.raises(RunError, match="1 of 20"):
        retry_quarantined(warehouse, "r", local, model=MODEL)
    bad.write_bytes(good)
    assert retry_quarantined(warehouse, "r", local, model=MODEL).quarantined == 0
    assert rows(warehouse)["image_id"].to_pylist() == [i for i in range(1, IMAGES + 1) for _ in range(2)]


def test_the_first_command_after_a_retry_finds_the_run_complete(
    warehouse: str, local: Executor, tmp_path: Path
) -> None:
    bad = sorted((tmp_path / "images").iterdir())[8]
    good = bad.read_bytes()
    bad.write_bytes(b"")
    predict(config(warehouse, max_quarantined=0.1), local)
    bad.write_bytes(good)
    retry_quarantined(warehouse, "r", local, model=MODEL)
    before = all_bytes(warehouse)
    report = predict(config(warehouse), local)
    assert (report.resumed_shards, report.quarantined) == (4, 0)
    assert all_bytes(warehouse) == before


def test_a_retry_keeps_to_the_runs_version_of_the_dataset(warehouse: str, local: Executor, tmp_path: Path) -> None:
    bad = sorted((tmp_path / "images").iterdir())[8]
    good = bad.read_bytes()
    bad.write_bytes(good[:100])
    predict(config(warehouse, max_quarantined=0.1), local)
    bad.write_bytes(good)
    (tmp_path / "images" / "new.png").write_bytes(good)
    ingest(IngestConfig("numbered", images=str(tmp_path / "images"), warehouse=warehouse), local)
    assert retry_quarantined(warehouse, "r", local, model=MODEL).images == IMAGES


def scored(root: str) -> dict[str, bytes]:
    """The metric tables and commit.json."""
    metrics = {entry.name: storage.read(entry.uri) for entry in storage.walk(f"{root}/metrics")}
    return metrics | {"commit": storage.read(f"{Warehouse(root).run('r')}/commit.json")}


@pytest.fixture
def annotated(warehouse: str, local: Executor, tmp_path: Path) -> str:
    """The same images with a box each."""
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    images = [{"id": i + 1, "file_name": name, "width": 30, "height": 20 + i % 3} for i, name in enumerate(names)]
    boxes = [
        {"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": [1, 2, 14, 8], "area": 112, "iscrowd": 0}
        for i in range(IMAGES)
    ]
    categories = [{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}]
    document = {"images": images, "annotations": boxes, "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(document))
    truth = str(tmp_path / "truth.json")
    ingest(IngestConfig("numbered", images=str(tmp_path / "images"), annotations=truth, warehouse=warehouse), local)
    return warehouse


def test_a_retry_with_nothing_quarantined_touches_nothing(annotated: str, local: Executor) -> None:
    predict(config(annotated), local)
    evaluate(EvaluateConfig("r", warehouse=annotated), local)
    before, parts = scored(annotated), all_bytes(annotated)
    report = retry_quarantined(annotated, "r", local, model=MODEL)
    assert (report.images, report.quarantined, report.rescored) == (IMAGES, 0, ())
    assert (scored(annotated), all_bytes(annotated)) == (before, parts)


def test_a_retry_that_fails_alike_keeps_the_figures(annotated: str, local: Executor) -> None:
    predict(config(annotated, "raise_on=7", max_quarantined=0.1), local)
    evaluate(EvaluateConfig("r", warehouse=annotated), local)
    before, parts = scored(annotated), all_bytes(annotated)
    assert retry_quarantined(annotated, "r", local, model=MODEL).quarantined == 1
    assert (scored(annotated), all_bytes(annotated)) == (before, parts)


@pytest.mark.parametrize("was_scored", [True, False])
def test_a_run_whose_rows_change_is_scored_again_if_it_was(
    annotated: str, local: Executor, tmp_path: Path, was_scored: bool
) -> None:
    bad = sorted((tmp_path / "images").iterdir())[8]
    good = bad.read_bytes()
    bad.write_bytes(good[:100])
    predict(config(annotated, max_quarantined=0.1), local)
    if was_scored:
        evaluate(EvaluateConfig("r", warehouse=annotated), local)
    before = scored(annotated)
    bad.write_bytes(good)
    report = retry_quarantined(annotated, "r", local, model=MODEL)
    assert report.rescored == (("bbox",) if was_scored else ())
    after = scored(annotated)
    assert any(name.endswith("/metrics.parquet") for name in after) is was_scored
    figures = [[data for name, data in them.items() if name.endswith("/metrics.parquet")] for them in (before, after)]
    assert (figures[0] != figures[1]) is was_scored
    assert json.loads(after["commit"])["report"] == json.loads(before["commit"])["report"]
    assert any("scored again: bbox" in line for line in cli.lines(report)) is was_scored


def test_an_unfinished_run_of_a_dataset_that_has_changed_names_the_version_that_resumes_it(
    warehouse: str, local: Executor, tmp_path: Path
) -> None:
    job = prepare(config(warehouse))
    (tmp_path / "images" / "new.png").write_bytes((tmp_path / "images" / "001.png").read_bytes())
    ingest(IngestConfig("numbered", images=str(tmp_path / "images"), warehouse=warehouse), local)
    pinned = f"numbered@{job.record.dataset_version}"
    with pytest.raises(
        RunError, match=rf"begun on {pinned}, .*: to resume it, name that version: '.* {pinned} --run r'"
    ):
        predict(config(warehouse), local)
    with pytest.raises(RunError, match=r"other settings differ too:\n  batch_size: 4 there, 3 here\n"):
        predict(config(warehouse, batch_size=3), local)
    assert predict(replace(config(warehouse), dataset=pinned), local).images == IMAGES
    with pytest.raises(RunError, match=rf"run 'r' holds the predictions of {pinned}, .* give another --run name$"):
        predict(config(warehouse), local)


def test_equal_datasets_of_two_names_have_a_run_each(warehouse: str, local: Executor, tmp_path: Path) -> None:
    ingest(IngestConfig("twin", images=str(tmp_path / "images"), warehouse=warehouse), local)
    first = predict(config(warehouse, run=None), local)
    second = predict(replace(config(warehouse, run=None), dataset="twin"), local)
    assert (first.dataset, second.dataset) == ("numbered", "twin")
    assert first.run != second.run


def test_a_lost_part_of_a_committed_run_is_made_again(warehouse: str, local: Executor) -> None:
    predict(config(warehouse), local)
    before = all_bytes(warehouse)
    next(Path(warehouse, "predictions").rglob("shard-00001-*.parquet")).unlink()
    assert predict(config(warehouse), local).resumed_shards == 3
    assert all_bytes(warehouse) == before


def test_a_damaged_part_is_predicted_again(warehouse: str, local: Executor) -> None:
    predict(config(warehouse), local)
    before = all_bytes(warehouse)
    part = next(Path(warehouse, "outcomes").rglob("shard-00002.parquet"))
    part.write_bytes(part.read_bytes()[:50])
    assert predict(config(warehouse), local).resumed_shards == 3
    assert all_bytes(warehouse) == before


def test_weights_are_asked_for(warehouse: str, local: Executor) -> None:
    asked = replace(config(warehouse), network=NetworkConfig(model=MODEL))
    with pytest.raises(ConfigError, match=r"no weights given for tests.odd_models:SPEC.*'random'"):
        predict(asked, local)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"precision": "int4"}, "precision 'int4': expected auto, fp32"),
        ({"max_quarantined": 2}, "max_quarantined 2: expected a share"),
        ({"split": "val"}, "split 'val': the dataset holds 20 images and no splits"),
        ({"run": "a/b"}, "run 'a/b' cannot be used as a name"),
    ],
)
def test_wrong_settings_are_reported(
    warehouse: str, local: Executor, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        predict(config(warehouse, **settings), local)


@pytest.fixture(scope="module")
def ray() -> Iterator[Executor]:
    """Two workers of an embedded Ray."""
    with open_executor(ExecutorConfig(kind="ray", workers="2:2")) as executor:
        yield executor


@pytest.mark.ray
def test_the_bytes_on_ray_are_those_of_the_local_run(warehouse: str, local: Executor, ray: Executor) -> None:
    predict(config(warehouse), local)
    expected = all_bytes(warehouse)
    for kind in ("predictions", "outcomes", "runs"):
        shutil.rmtree(Path(warehouse, kind))
    predict(config(warehouse), ray)
    assert all_bytes(warehouse) == expected


@pytest.mark.ray
@pytest.mark.slow
def test_an_image_that_kills_its_worker_is_quarantined_alone(warehouse: str, ray: Executor) -> None:
    report = predict(config(warehouse, "exit_on=9", max_quarantined=0.1, shard_size=3), ray)  # 7, 8, 9: halved twice
    assert (report.predictions, report.quarantined) == (2 * IMAGES - 2, 1)
    (bad,) = [row for row in rows(warehouse, "outcomes").to_pylist() if row["status"] != "ok"]
    assert (bad["image_id"], bad["stage"], bad["error"]) == (9, "worker", "WorkerDied")
    assert "009.png" in bad["message"]


def test_auto_goes_on_as_the_run_was_begun(warehouse: str, local: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    predict(config(warehouse, precision="fp32"), local)
    monkeypatch.setattr("shardlens.pipeline.networks.precision.bf16_speedup", lambda: 1.9)
    again = predict(config(warehouse, precision="auto"), local)
    assert again.resumed_shards
    assert runs.find(Warehouse(warehouse), "r").settings["precision"] == "fp32"


def test_a_machine_that_would_choose_otherwise_resumes_a_run_without_a_name(
    warehouse: str, local: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardlens.pipeline.networks.precision.bf16_speedup", lambda: 0.9)
    first = predict(config(warehouse, precision="auto", run=None), local)
    monkeypatch.setattr("shardlens.pipeline.networks.precision.bf16_speedup", lambda: 1.9)
    again = predict(config(warehouse, precision="auto", run=None), local)
    assert (again.run, again.precision) == (first.run, "fp32")
    assert again.resumed_shards == 4
    asked = predict(config(warehouse, precision="bf16", run=None), local)
    assert asked.run != first.run
    assert (asked.precision, asked.resumed_shards) == ("bf16", 0)


def test_the_device_has_the_next_shard_while_the_last_ones_rows_are_made(
    warehouse: str, local: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, make_rows = Forward.outputs, Forward.rows
    second = threading.Event()

    def watched(self: Forward, images: list[Decoded]) -> Any:
        if any(image.pixels[0, 0, 0] > 2 for image in images):
            second.set()
        return outputs(self, images)

    def patient(self: Forward, images: list[Decoded], found: Any) -> Any:
        if not second.wait(20):
            raise TimeoutError("the device was kept from the second shard")
        return make_rows(self, images, found)

    monkeypatch.setattr(Forward, "outputs", watched)
    monkeypatch.setattr(Forward, "rows", patient)
    report = predict(config(warehouse, shard_size=2), local)
    assert (report.images, report.quarantined) == (IMAGES, 0)


def test_a_device_that_refuses_pixels_is_left_to_the_forward_pass() -> None:
    def refuse(pixels: np.ndarray) -> None:
        raise torch.OutOfMemoryError("no room")

    image = Decoded(np.zeros((4, 5, 3), np.uint8), 1, 4, 5)
    assert computing._upload_ahead(image, refuse) is image  # type: ignore[arg-type]


def test_a_long_run_says_that_cores_were_idle(warehouse: str, local: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    report = replace(predict(config(warehouse), local), seconds=60.0)
    (hint,) = cli._spare_cores(report, ExecutorConfig())
    assert "computed on 1 of 8 cores: --executor ray" in hint
    assert not cli._spare_cores(replace(report, seconds=1.0), ExecutorConfig())
    assert not cli._spare_cores(report, ExecutorConfig(kind="ray"))
