"""Each stage as a flow of its own, on a real Prefect server."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient

from shardlens.flows import stages
from shardlens.pipeline.evaluate import EvaluateConfig
from shardlens.pipeline.ingest import IngestConfig
from shardlens.pipeline.predict import PredictConfig
from shardlens.pipeline.train import TrainConfig
from shardlens.pipeline.warehouse import runs
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.flows.seen import artifacts, flow_run

pytestmark = pytest.mark.prefect


def test_ingest_tells_what_it_took_in(client: SyncPrefectClient, source: IngestConfig) -> None:
    state = stages.ingest(source, return_state=True)
    report = state.result()
    assert Dataset.open(Warehouse(source.warehouse), "shapes").version == report.version
    run = flow_run(client, state)
    assert (run.name, run.state_type) == ("ingest shapes", "COMPLETED")
    found = artifacts(client, run.id)
    assert sorted(found) == ["dataset-shapes", "progress-ingest-shapes"]
    assert "8 images" in found["dataset-shapes"].data
    assert "No problems were found" in found["dataset-shapes"].data


def test_ingest_tells_what_was_wrong(client: SyncPrefectClient, source: IngestConfig, tmp_path: Path) -> None:
    document = json.loads(Path(str(source.annotations)).read_text())
    document["annotations"][0]["category_id"] = 99
    (tmp_path / "wrong.json").write_text(json.dumps(document))
    state = stages.ingest(replace(source, annotations=str(tmp_path / "wrong.json")), return_state=True)
    shown = artifacts(client, flow_run(client, state).id)["dataset-shapes"].data
    assert "| unknown-category | 1 | a category that is not listed; kept without category id, not scored |" in shown


def test_predict_shows_its_progress_and_its_tables(client: SyncPrefectClient, shapes: PredictConfig) -> None:
    state = stages.predict(shapes, return_state=True)
    report = state.result()
    assert runs.open_committed(Warehouse(shapes.warehouse), report.run).parts
    found = artifacts(client, flow_run(client, state).id)
    bar = found["progress-predict-shapes"]
    assert (bar.type, bar.data, bar.description) == ("progress", 100.0, "shapes: 8 of 8 images")
    assert report.uri in found["run-shapes"].data
    assert f"WHERE run = '{report.run}'" in found["run-shapes"].data


def test_evaluate_shows_the_metrics_in_tables(client: SyncPrefectClient, shapes: PredictConfig) -> None:
    run = stages.predict(shapes).run
    state = stages.evaluate(EvaluateConfig(run, warehouse=shapes.warehouse), return_state=True)
    found = artifacts(client, flow_run(client, state).id)
    means = {row["metric"]: row["value"] for row in json.loads(found["metrics-shapes"].data)}
    summary = {metric: value for task, metric, value in state.result().summary() if task == "semantic"}
    assert means == pytest.approx(summary, abs=1e-4)
    rows = json.loads(found["categories-shapes"].data)
    assert [(row["task"], row["category"]) for row in rows] == [
        ("semantic", name) for name in ("disc", "square", "triangle")
    ]
    assert {"Dice", "IoU"} < set(rows[0])


def test_train_gives_a_checkpoint_that_predicts(client: SyncPrefectClient, shapes: PredictConfig) -> None:
    config = TrainConfig("shapes", model="unet", epochs=1, warehouse=shapes.warehouse)
    state = stages.train(config, return_state=True)
    checkpoint = state.result().checkpoint
    assert checkpoint in artifacts(client, flow_run(client, state).id)["checkpoint-shapes"].data
    network = replace(shapes.network, model=None, weights=checkpoint, labels=None)
    assert stages.predict(replace(shapes, network=network)).run.startswith("unet-")
