"""Which settings make a run another one: today's records stay what they are, and a new setting is never forgotten."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shardlens.pipeline import storage
from shardlens.pipeline.errors import RunError
from shardlens.pipeline.executors.base import ExecutorConfig
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.images.policy import DecodePolicy
from shardlens.pipeline.inference.fingerprint import counted
from shardlens.pipeline.inference.options import InferenceConfig, View
from shardlens.pipeline.inference.postprocess import PostProcessing
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import NO_ROWS, PredictConfig, predict, prepare
from shardlens.pipeline.warehouse import runs
from shardlens.pipeline.warehouse.layout import Warehouse

RECORDED = json.loads(Path(__file__).with_name("runs_of_0_1.json").read_text())
"""run.json, commit.json and voucher of three runs, as version 0.1 wrote them."""
COUNTS = {
    PredictConfig: "dataset network inference split batch_size shard_size precision decode_scale compiled "
    "max_pixels value_range accept_missing_end full",
    NetworkConfig: "model option weights labels score_threshold",
    InferenceConfig: "tile overlap tta ensemble threshold fill_holes min_area largest_component components",
    DecodePolicy: "max_pixels scale exif value_range accept_missing_end",
    PostProcessing: "thresholds fill_holes min_area largest_component components",
    View: "scale flipped turned",
}
"""Settings that can change a row, and `full`, which is a run of its own because it shall not take an earlier one's rows."""


@pytest.fixture
def warehouse(tmp_path: Path) -> str:
    """The dataset of the recorded runs."""
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.fromarray(np.full((40, 60, 3), 40 * i + 7, np.uint8)).save(tmp_path / "images" / f"{i}.png")
    root = str(tmp_path / "warehouse")
    ingest(IngestConfig("plain", images=str(tmp_path / "images"), warehouse=root), LocalExecutor())
    return root


def plain(warehouse: str, **settings: Any) -> PredictConfig:
    network = NetworkConfig(model="tests.odd_models:SPEC", weights="random")
    given: dict[str, Any] = {"network": network, "run": "r", "precision": "fp32", "warehouse": warehouse, **settings}
    return PredictConfig("plain", **given)


def asked(warehouse: str, name: str) -> PredictConfig:
    """What the recorded run was asked."""
    given = {k: v for k, v in RECORDED[name]["run.json"]["origin"]["config"].items() if k not in {"device", "threads"}}
    network = {k: tuple(v) if isinstance(v, list) else v for k, v in given.pop("network").items()}
    inference = {k: tuple(v) if isinstance(v, list) else v for k, v in given.pop("inference").items()}
    nested = {"network": NetworkConfig(**network), "inference": InferenceConfig(**inference)}
    return PredictConfig(**given | nested | {"dataset": "plain", "warehouse": warehouse})


def put(warehouse: str, name: str) -> dict[str, Any]:
    """Put the recorded run.json into a warehouse where the dataset has another version, since its images lie elsewhere."""
    version = json.loads(storage.read(f"{warehouse}/datasets/plain/latest.json"))["version"]
    document: dict[str, Any] = RECORDED[name]["run.json"] | {"dataset_version": version}
    what = {key: document[key] for key in ("dataset", "dataset_version", "settings", "shards")}
    document["fingerprint"] = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    storage.publish(f"{Warehouse(warehouse).run(name)}/run.json", json.dumps(document).encode())
    return document


def placed(name: str) -> ExecutorConfig:
    """Where the recorded run was computed."""
    return ExecutorConfig(cpus_per_worker=RECORDED[name]["run.json"]["settings"]["threads"])


@pytest.mark.parametrize("name", RECORDED)
def test_a_run_of_an_earlier_version_is_resumed(warehouse: str, name: str) -> None:
    there = put(warehouse, name)
    report = predict(asked(warehouse, name), LocalExecutor(placed(name)))
    record = runs.open_committed(Warehouse(warehouse), name)
    assert (report.images, record.fingerprint, record.voucher) == (4, there["fingerprint"], RECORDED[name]["voucher"])


@pytest.mark.parametrize("name", RECORDED)
def test_the_fingerprint_of_a_recorded_run_is_what_it_was(warehouse: str, name: str) -> None:
    document = RECORDED[name]["run.json"]
    settings = prepare(asked(warehouse, name), placed(name).placement).record.settings
    assert json.loads(json.dumps(settings)) == document["settings"]
    storage.publish(f"{Warehouse(warehouse).run('there')}/run.json", json.dumps(document).encode())
    assert runs.find(Warehouse(warehouse), "there").fingerprint == document["fingerprint"]


@dataclass(frozen=True)
class LaterNetwork(NetworkConfig):
    blur: float = 0.0


@dataclass(frozen=True)
class LaterInference(InferenceConfig):
    mirror: tuple[str, ...] = ()


@dataclass(frozen=True)
class Later(PredictConfig):
    sharpen: int = 0
    levels: list[int] = field(default_factory=list)


def later(config: PredictConfig, **settings: Any) -> Later:
    return Later(**{f.name: getattr(config, f.name) for f in fields(config)} | settings)


SHARPER: dict[str, Callable[[PredictConfig], PredictConfig]] = {
    "sharpen": lambda config: later(config, sharpen=2),
    "levels": lambda config: later(config, levels=[1]),
    "network.blur": lambda config: replace(
        config, network=LaterNetwork(model="tests.odd_models:SPEC", weights="random", blur=0.5)
    ),
    "inference.mirror": lambda config: replace(config, inference=LaterInference(mirror=("up",))),
}


@pytest.mark.parametrize("setting", SHARPER)
def test_a_new_setting_counts_where_it_is_not_at_its_default(warehouse: str, setting: str) -> None:
    before = prepare(plain(warehouse)).record
    config = later(plain(warehouse), network=LaterNetwork(model="tests.odd_models:SPEC", weights="random"))
    assert prepare(replace(config, inference=LaterInference())).record.fingerprint == before.fingerprint
    with pytest.raises(RunError, match=rf"{setting}: null there, .* here"):
        prepare(SHARPER[setting](plain(warehouse)))


@pytest.mark.parametrize("config", COUNTS, ids=lambda config: config.__name__)
def test_of_every_setting_it_is_decided_whether_it_can_change_a_row(config: Any) -> None:
    undecided = {f.name for f in fields(config)} - set(COUNTS[config].split()) - NO_ROWS
    assert not undecided, f"{undecided}: name it in COUNTS here if it can change a row, else in predict.NO_ROWS"


def test_what_cannot_change_a_row_is_free(warehouse: str) -> None:
    first = prepare(plain(warehouse)).record
    network = replace(plain(warehouse).network, sha256="random")
    assert prepare(plain(warehouse, max_quarantined=0.5, network=network)).record.fingerprint == first.fingerprint


def test_a_setting_without_a_default_always_counts() -> None:
    @dataclass(frozen=True)
    class Given:
        size: int
        color: str = "red"
        place: str = "here"

    assert counted(Given(3)) == {"size": 3}
    assert counted(Given(3, "blue"), always=("place",), without=("size",)) == {"color": "blue", "place": "here"}
