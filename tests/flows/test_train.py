"""Training as a flow, on a real Prefect server: it checks, trains, resumes where it failed, and scores the checkpoint."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State

from shardlens.flows.artifacts import watched_by
from shardlens.flows.retries import RetryPolicy
from shardlens.flows.synthetic_shapes import draw_dataset
from shardlens.flows.train import Training, dataset_training
from shardlens.pipeline.errors import ConfigError, WeightsError
from shardlens.pipeline.executors.base import Progress
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.query import query
from shardlens.pipeline.train import TrainConfig
from tests.flows.seen import artifacts, flow_run, task_runs

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_api")]


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight images to train on, and four to validate on."""
    folder = tmp_path_factory.mktemp("splits")
    draw_dataset(folder, {"train": 8, "val": 4}, size=32)
    for split in ("train", "val"):
        places = {"images": str(folder / split / "images"), "annotations": str(folder / f"instances_{split}.json")}
        ingest(IngestConfig("split", **places, split=split, warehouse=str(folder / "warehouse")), LocalExecutor())
    return str(folder / "warehouse")


@pytest.fixture
def learning(warehouse: str) -> TrainConfig:
    option = ("depth=2", "width=4")
    return TrainConfig("split", model="unet", option=option, epochs=3, batch_size=4, warehouse=warehouse)


def train(config: TrainConfig, **more: Any) -> State[Training]:
    state: State[Training] = dataset_training(
        config, retry=RetryPolicy(retry_delay_seconds=0), **more, return_state=True
    )
    return state


def test_the_checkpoint_is_scored_and_all_of_it_is_shown(
    client: SyncPrefectClient, learning: TrainConfig, warehouse: str
) -> None:
    state = train(replace(learning, run="shown"))
    result = state.result()
    run = flow_run(client, state)
    assert run.name.startswith("train unet on split@")
    assert {"check split", "train unet"} < set(task_runs(client, run.id))
    assert result.prediction is not None
    assert result.prediction.images == 4
    scored = {metric: value for task, metric, value in result.evaluation.summary() if task == "semantic"}
    assert result.report.best["Dice"] == pytest.approx(scored["Dice"], abs=1e-6)  # validated as it is predicted
    found = artifacts(client, run.id)
    assert {"checkpoint-split", "training-split", "curves-split", "progress-train-split", "metrics-split"} < set(found)
    rows = json.loads(found["training-split"].data)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert {"loss", "Dice", "IoU"} < set(rows[0])
    picture = Image.open(io.BytesIO(base64.b64decode(found["curves-split"].data.partition(",")[2])))
    assert picture.format == "PNG"
    stored = query(warehouse, "SELECT epoch FROM metrics WHERE run = 'shown' AND metric = 'Dice' AND category IS NULL")
    assert sorted(stored["epoch"].to_pylist()) == [1, 2, 3]


def test_a_training_that_failed_goes_on_where_it_was(
    client: SyncPrefectClient, learning: TrainConfig, warehouse: str
) -> None:
    def fail_once(progress: Progress) -> None:
        if progress.stage == "train" and progress.done == 5 and not failed:
            failed.append(progress)
            raise ConnectionResetError("the machine went away")

    failed: list[Progress] = []
    config = replace(learning, run="torn")
    with watched_by(fail_once):
        state = train(config, evaluate=False)
    report = state.result().report
    assert (len(failed), report.resumed_from, report.steps) == (1, 4, 6)
    assert task_runs(client, flow_run(client, state).id)["train unet"].run_count == 2
    whole = train(replace(config, run="undisturbed"), evaluate=False).result().report
    assert report.sha256 == whole.sha256
    steps = query(warehouse, "SELECT run, step, loss FROM training WHERE run IN ('torn', 'undisturbed')").to_pylist()
    losses = {(row["run"], row["step"]): row["loss"] for row in steps}
    assert len(steps) == len(losses) == 12
    assert all(losses["torn", step] == losses["undisturbed", step] for step in range(1, 7))
    doubled = "SELECT epoch FROM metrics WHERE run = 'torn' AND metric = 'Dice' AND category IS NULL"
    assert sorted(query(warehouse, doubled)["epoch"].to_pylist()) == [1, 2, 3]


def test_what_cannot_work_is_reported_at_once(client: SyncPrefectClient, learning: TrainConfig) -> None:
    state = train(replace(learning, val_split="dev"))
    with pytest.raises(ConfigError, match="no split 'dev' to validate on: it has train, val"):
        state.result()
    run = flow_run(client, state)
    assert {name: task.run_count for name, task in task_runs(client, run.id).items()} == {"check split": 1}
    assert run.state is not None
    assert "ConfigError" in (run.state.message or "")


def test_what_fits_of_the_weights_is_shown(
    client: SyncPrefectClient, learning: TrainConfig, warehouse: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = train(replace(learning, run="first", epochs=1), evaluate=False).result().report
    state = train(replace(learning, run="second", epochs=1, init=first.checkpoint), evaluate=False)
    assert f"tensors of {first.checkpoint} fit" in state.result().report.initialized
    shown = artifacts(client, flow_run(client, state).id)["checkpoint-split"].data
    assert f"tensors of {first.checkpoint} fit" in shown
    assert caplog.text.count(f"tensors of {first.checkpoint} fit") >= 2  # in the check, and at the start


def test_weights_that_do_not_fit_are_reported_before_anything_starts(
    client: SyncPrefectClient, learning: TrainConfig, tmp_path: Path
) -> None:
    strange = tmp_path / "strange.pth"
    torch.save({"other.weight": torch.zeros(2, 2)}, strange)
    state = train(replace(learning, init=str(strange)))
    with pytest.raises(WeightsError, match="none of its 1 tensors fits the model"):
        state.result()
    assert list(task_runs(client, flow_run(client, state).id)) == ["check split"]


def test_without_validation_nothing_is_scored(learning: TrainConfig) -> None:
    result = train(replace(learning, validate_every=0, epochs=1)).result()
    assert (result.prediction, result.evaluation, result.report.val_split) == (None, None, None)
    assert Path(result.report.curves).exists()
