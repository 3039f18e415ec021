"""Ingest, predict and evaluate in a row, as it is scheduled."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State
from prefect.flow_engine import run_flow
from prefect.utilities.names import generate_slug

from shardlens.flows.inference import Inference, dataset_inference
from shardlens.flows.retries import RetryPolicy
from shardlens.flows.run_names import is_generated
from shardlens.pipeline.errors import ConfigError, ModelError, WeightsError
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.predict import PredictConfig
from shardlens.pipeline.storage import Backoff, objects
from shardlens.pipeline.train import TrainConfig
from shardlens.pipeline.warehouse import runs
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.flows.failing_store import Outage, failing_store
from tests.flows.seen import artifacts, flow_run, task_runs

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_api")]
AT_ONCE = RetryPolicy(retry_delay_seconds=0)


def infer(*settings: Any, **more: Any) -> State[Inference]:
    state: State[Inference] = dataset_inference(*settings, **{"retry": AT_ONCE, **more}, return_state=True)
    return state


@pytest.fixture
def growing(shapes: PredictConfig, drawn: Path, tmp_path: Path) -> PredictConfig:
    """A dataset without annotations whose folder grows."""
    (tmp_path / "bucket").mkdir()
    for image in sorted((drawn / "val/images").iterdir())[:3]:
        shutil.copy(image, tmp_path / "bucket")
    config = IngestConfig("growing", images=str(tmp_path / "bucket"), warehouse=shapes.warehouse)
    ingest(config, LocalExecutor())
    return replace(shapes, dataset="growing")


def test_all_stages_in_a_row(client: SyncPrefectClient, shapes: PredictConfig, source: IngestConfig) -> None:
    state = infer(shapes, ingest=source)
    result = state.result()
    assert runs.open_committed(Warehouse(shapes.warehouse), result.prediction.run).commit is not None
    assert result.evaluation is not None
    assert result.evaluation.run == result.prediction.run
    run = flow_run(client, state)
    assert run.name.startswith(f"shapes@{result.prediction.dataset_version} by unet: semantic ")
    assert set(task_runs(client, run.id)) == {"ingest shapes", "predict shapes", f"evaluate {result.prediction.run}"}
    assert {"metrics-shapes", "progress-predict-shapes", "run-shapes"} < set(artifacts(client, run.id))


def test_what_did_not_change_is_not_repeated(client: SyncPrefectClient, shapes: PredictConfig) -> None:
    states = [infer(shapes) for _ in range(2)]
    first, second = (state.result().prediction for state in states)
    assert (second.run, second.dataset_version) == (first.run, first.dataset_version)
    assert (first.resumed_shards, second.resumed_shards, second.images_per_second) == (0, 2, 0)
    run = flow_run(client, states[1])
    assert run.name == f"shapes@{second.dataset_version} by unet: unchanged"
    assert set(artifacts(client, run.id)) <= {"progress-ingest-shapes"}
    assert not [name for name in task_runs(client, run.id) if name.startswith("evaluate")]


def test_a_complete_run_that_was_not_scored_is_scored(shapes: PredictConfig) -> None:
    first, second = infer(shapes, evaluate=False).result(), infer(shapes).result()
    assert second.prediction.run == first.prediction.run
    assert (first.evaluation is None, second.evaluation is not None) == (True, True)


@pytest.mark.parametrize(
    ("name", "generated"),
    [
        ("amber-falcon", True),
        ("street, first try", False),
        ("night-shift", False),
        ("shapes", False),
        ("", False),
        ("2026-11-30", False),
    ],
)
def test_names_that_prefect_made_up_are_known(name: str, generated: bool) -> None:
    assert is_generated(name) is generated


def test_all_of_prefects_names_are_known() -> None:
    assert all(is_generated(generate_slug(2)) for _ in range(500))


def test_a_name_that_the_user_gave_is_kept(client: SyncPrefectClient, shapes: PredictConfig) -> None:
    deployment = client.create_deployment(client.create_flow(dataset_inference), name="named")
    given = client.create_flow_run_from_deployment(deployment, name="the large batch")
    run_flow(dataset_inference, flow_run=client.read_flow_run(given.id), parameters={"predict": shapes})
    assert client.read_flow_run(given.id).name == "the large batch"


def test_new_images_are_taken_in_and_predicted(growing: PredictConfig, drawn: Path, tmp_path: Path) -> None:
    before = infer(growing).result()
    assert before.evaluation is None  # there is nothing to score it against
    shutil.copy(drawn / "val/images/000008.png", tmp_path / "bucket")
    after = infer(growing).result()
    assert (before.prediction.images, after.prediction.images) == (3, 4)
    assert after.prediction.run != before.prediction.run


def test_without_refresh_the_dataset_stays(growing: PredictConfig, drawn: Path, tmp_path: Path) -> None:
    shutil.copy(drawn / "val/images/000008.png", tmp_path / "bucket")
    assert infer(growing, refresh=False).result().prediction.images == 3


def test_a_version_that_is_named_stays(growing: PredictConfig, drawn: Path, tmp_path: Path) -> None:
    first = infer(growing).result().prediction
    shutil.copy(drawn / "val/images/000008.png", tmp_path / "bucket")
    pinned = replace(growing, dataset=f"growing@{first.dataset_version}")
    assert infer(pinned).result().prediction.run == first.run


def test_training_first_predicts_with_the_checkpoint(client: SyncPrefectClient, shapes: PredictConfig) -> None:
    learning = TrainConfig("shapes", model="unet", epochs=1)
    untrained = replace(shapes, network=replace(shapes.network, model=None, weights=None, labels=None))
    state = infer(untrained, train=learning, evaluate=False)
    result = state.result()
    assert result.evaluation is None
    assert " by a new unet: " in flow_run(client, state).name
    record = runs.find(Warehouse(shapes.warehouse), result.prediction.run)
    checkpoint = record.origin["config"]["network"]["weights"]
    assert checkpoint.startswith(f"{shapes.warehouse}/checkpoints/unet-")
    again = infer(replace(untrained, network=replace(untrained.network, weights=checkpoint)), evaluate=False)
    assert f" by {checkpoint.split('/')[-2]}: " in flow_run(client, again).name


def test_a_store_that_comes_back_costs_a_retry(
    client: SyncPrefectClient, shapes: PredictConfig, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "BACKOFF", Backoff(attempts=2, first_s=0.01))
    outage = Outage(2)
    with failing_store(drawn, outage) as url:
        network = replace(shapes.network, labels=f"{url}/labels.txt")
        state = infer(replace(shapes, network=network), evaluate=False)
    assert (state.is_completed(), outage.refused) == (True, 2)
    tasks = task_runs(client, flow_run(client, state).id)
    assert (tasks["predict shapes"].run_count, tasks["ingest shapes again"].run_count) == (2, 1)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "unett"}, ModelError, "no model is called 'unett'; nearest: unet"),
        ({"labels": None}, ConfigError, "does not know its labels' names: give them with --labels"),
        ({"weights": "/nowhere/weights.pt"}, WeightsError, "no weights at /nowhere/weights.pt"),
    ],
)
def test_a_fault_of_the_settings_is_reported_at_once(
    client: SyncPrefectClient, shapes: PredictConfig, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    state = infer(replace(shapes, network=replace(shapes.network, **changes)))
    with pytest.raises(error, match=message):
        state.result()
    run = flow_run(client, state)
    assert run.state is not None
    assert (run.state.message or "").startswith(f"Flow run encountered an exception: {error.__name__}: ")
    assert task_runs(client, run.id)["predict shapes"].run_count == 1


def test_settings_that_cannot_be_are_refused_before_the_run() -> None:
    state = infer({"dataset": "shapes", "batch_size": 0})
    with pytest.raises(ConfigError, match="batch_size is 0: expected 1 or more"):
        state.result()


# Prefect raises wherever the stage is just then, which may be in a callback that Python can only tell of
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stage_that_takes_too_long_is_stopped(shapes: PredictConfig) -> None:
    state = infer(shapes, refresh=False, retry=RetryPolicy(retries=0, timeout_hours=0.01 / 3600))
    with pytest.raises(TimeoutError, match=r"timed out after 0\.01 second"):
        state.result()


def test_stages_that_do_not_fit_together_are_refused(shapes: PredictConfig, source: IngestConfig) -> None:
    with pytest.raises(ConfigError, match="taken in is 'circles', the one predicted is 'shapes'"):
        infer(shapes, ingest=replace(source, name="circles")).result()
    with pytest.raises(ConfigError, match=r"two warehouses are named, /elsewhere and .*: expected one"):
        infer(shapes, ingest=replace(source, warehouse="/elsewhere")).result()
    with pytest.raises(ConfigError, match="weights random are given, and a training too"):
        infer(shapes, train=TrainConfig("shapes", model="unet", epochs=1)).result()
