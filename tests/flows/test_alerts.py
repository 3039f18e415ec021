"""Alerts on a real Prefect server, received by a real webhook."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.blocks.notifications import SlackWebhook
from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.deployments.runner import RunnerDeployment
from prefect.events.schemas.automations import Automation
from prefect.flow_engine import run_flow
from prefect.runner import Runner
from prefect.settings import get_current_settings
from prefect.states import Scheduled
from pydantic import SecretStr

from shardlens.flows.alert_events import AlertLimits
from shardlens.flows.alerts import alerts
from shardlens.flows.automations import ALERTS, AlertTarget, find_blocks, set_alerts
from shardlens.flows.inference import Inference, dataset_inference
from shardlens.flows.retries import RetryPolicy
from shardlens.flows.serve import check_alerts, register, serve
from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.predict import PredictConfig
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.flows.test_serve import waited
from tests.flows.webhook import SECRET, Receiver, receiver

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_api")]
OF_APPRISE = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
NIGHTLY = "dataset_inference/watched"


@pytest.fixture(scope="module")
def received() -> Iterator[Receiver]:
    with receiver() as each:
        yield each


@pytest.fixture
def deployment(client: SyncPrefectClient, received: Receiver) -> UUID:
    """A deployment with alerts; those of the tests before are forgotten."""
    made = client.create_deployment(client.create_flow(dataset_inference), name="watched")
    alert(made, AlertTarget(webhook=received.url))
    received.posts.clear()
    return made


def alert(deployment: UUID, target: AlertTarget) -> None:
    async def set_them() -> None:
        async with get_client() as client:
            await set_alerts(client, deployment, NIGHTLY, target, await find_blocks(client, target))

    asyncio.run(set_them())


def run(client: SyncPrefectClient, deployment: UUID, predict: PredictConfig, **more: Any) -> Any:
    given = client.create_flow_run_from_deployment(deployment)
    parameters = {"predict": predict, "retry": RetryPolicy(retries=0), **more}
    return run_flow(dataset_inference, client.read_flow_run(given.id), parameters, return_type="state")


def automations(client: SyncPrefectClient) -> list[Automation]:
    return [each for each in client.read_automations() if each.name.startswith(NIGHTLY)]


@pytest.fixture
def growing(shapes: PredictConfig, source: IngestConfig, drawn: Path, tmp_path: Path) -> PredictConfig:
    """The drawn images in a folder of the test's own."""
    shutil.copytree(drawn / "val/images", tmp_path / "images")
    ingest(replace(source, name="growing", images=str(tmp_path / "images")), LocalExecutor())
    return replace(shapes, dataset="growing", max_quarantined=0.5)


def as_if_better(predict: PredictConfig, run: str, by: float) -> None:
    """Raise every metric of a run, as if a better model had predicted it."""
    uri = storage.join(Warehouse(predict.warehouse).metrics(predict.dataset, run), "metrics.parquet")
    rows = tables.from_bytes(storage.read(uri)).to_pylist()
    raised = [row | {"value": None if row["value"] is None else row["value"] + by} for row in rows]
    storage.publish(uri, tables.to_bytes(tables.from_rows(raised, tables.METRICS)))


def headline(inference: Inference) -> float:
    assert inference.evaluation is not None
    return float(inference.evaluation.summary()[0][2] or 0)


def test_a_fallen_metric_and_quarantined_images_reach_the_webhook_with_their_figures(
    client: SyncPrefectClient, deployment: UUID, received: Receiver, growing: PredictConfig, tmp_path: Path
) -> None:
    first = run(client, deployment, growing).result()
    as_if_better(growing, first.prediction.run, 0.25)
    (tmp_path / "images/broken.png").write_bytes(b"no image")
    limits = AlertLimits(quarantined=0.1, drop=0.2)
    second = run(client, deployment, growing, alerts=limits).result()
    (fallen,) = waited(lambda: received.of("metric fell"), 10)
    (quarantined,) = waited(lambda: received.of("images quarantined"), 10)
    before, now = headline(first) + 0.25, headline(second)
    task, metric, _ = second.evaluation.summary()[0]
    assert fallen["path"] == f"/{SECRET}"
    assert fallen["figures"] == {
        "run": second.prediction.run,
        "dataset": "growing",
        "task": task,
        "metric": metric,
        "before": pytest.approx(before),
        "now": pytest.approx(now),
        "difference": pytest.approx(now - before),
        "limit": 0.2,
        "last_run": first.prediction.run,
        "message": fallen["text"],
    }
    assert fallen["subject"] == f"growing: {metric} fell by {before - now:.4f}"
    assert quarantined["figures"] == {
        "run": second.prediction.run,
        "dataset": "growing",
        "quarantined": 1,
        "images": 9,
        "share": pytest.approx(1 / 9),
        "limit": 0.1,
        "message": "1 of 9 images of growing quarantined (11.11%, alert above 10.00%)",
    }


def test_what_stays_within_the_limits_alerts_nobody(
    client: SyncPrefectClient, deployment: UUID, received: Receiver, growing: PredictConfig, tmp_path: Path
) -> None:
    first = run(client, deployment, growing).result()
    as_if_better(growing, first.prediction.run, 0.25)
    (tmp_path / "images/broken.png").write_bytes(b"no image")
    run(client, deployment, growing, alerts=AlertLimits(quarantined=0.2, drop=0.3)).result()
    run(client, deployment, growing, alerts=AlertLimits(quarantined=0, drop=0)).result()  # unchanged: nothing is new
    assert run(client, deployment, replace(growing, dataset="circles")).is_failed()
    assert waited(lambda: received.of("run failed"), 10)  # which came later
    assert len(received.posts) == 1


def test_a_run_that_failed_or_is_late_reaches_the_webhook(
    client: SyncPrefectClient, deployment: UUID, received: Receiver, shapes: PredictConfig
) -> None:
    missed = []
    for minutes in (3, 2, 1):  # as after a failure of the machine, when nobody starts them
        due = datetime.now(UTC) - timedelta(minutes=minutes)
        missed.append(client.create_flow_run_from_deployment(deployment, state=Scheduled(scheduled_time=due)).id)
    run(client, deployment, replace(shapes, dataset="circles"))
    (failed,) = waited(lambda: received.of("run failed"), 10)
    assert failed["subject"] == "circles by unet: Failed"
    assert "DatasetError: no dataset 'circles'" in failed["text"]
    assert failed["url"].startswith(f"{str(client.api_url).removesuffix('/api/')}/runs/flow-run/")
    (late,) = waited(lambda: received.of("run late"), 20)  # one for all three
    assert late["subject"] == "watched: run late"
    assert late["figures"]["state"] == "Late"
    for each in missed:
        client.delete_flow_run(each)


def test_alerts_are_set_once_and_removed(client: SyncPrefectClient, deployment: UUID, received: Receiver) -> None:
    client.pause_automation(automations(client)[0].id)
    before = automations(client)
    alert(deployment, AlertTarget(webhook=received.url))
    again = automations(client)
    assert len(again) == len(ALERTS)
    assert {(each.id, each.enabled) for each in again} == {(each.id, each.enabled) for each in before}
    alert(deployment, AlertTarget())
    assert automations(client) == []
    assert not [block for block in client.read_block_documents() if block.name == f"shardlens-alerts-{deployment}"]


def test_two_that_begin_at_once_leave_one_of_each_kind(
    client: SyncPrefectClient, deployment: UUID, received: Receiver
) -> None:
    alert(deployment, AlertTarget())

    async def at_once() -> None:
        target = AlertTarget(webhook=received.url)
        async with get_client() as client:
            await asyncio.gather(*(set_alerts(client, deployment, NIGHTLY, target, []) for _ in range(2)))

    asyncio.run(at_once())
    alert(deployment, AlertTarget(webhook=received.url))
    assert len(automations(client)) == len(ALERTS)


@OF_APPRISE
def test_a_block_of_the_server_is_notified(
    client: SyncPrefectClient, deployment: UUID, received: Receiver, shapes: PredictConfig
) -> None:
    """Slack's block takes addresses of Apprise, too: here one that posts JSON."""
    SlackWebhook(url=SecretStr(received.url.replace("http:", "json:"))).save("ops", overwrite=True)
    alerts(NIGHTLY, target=AlertTarget(block=("slack-webhook/ops",)))
    assert run(client, deployment, replace(shapes, dataset="circles")).is_failed()
    (post,) = waited(lambda: [post for post in received.posts if post.get("title") == "circles by unet: Failed"], 10)
    assert "no dataset 'circles'" in post["message"]
    assert "/runs/flow-run/" in post["message"]
    alerts(NIGHTLY, remove=True)
    assert automations(client) == []


@OF_APPRISE
def test_wrong_targets_are_explained_before_anything_is_made(
    client: SyncPrefectClient, shapes: PredictConfig, received: Receiver
) -> None:
    SlackWebhook(url=SecretStr(received.url.replace("http:", "json:"))).save("ops", overwrite=True)
    with pytest.raises(
        ConfigError, match=r"no block slack-webhook/opps is on .*, those that can alert are .*-webhook/ops"
    ):
        serve(shapes, target=AlertTarget(block=("slack-webhook/opps",)))
    assert "shapes-by-unet" not in {each.name for each in client.read_deployments()}
    Secret(value="x").save("hidden", overwrite=True)
    with pytest.raises(ConfigError, match="block secret/hidden cannot alert anybody: expected a block that notifies"):
        serve(shapes, target=AlertTarget(block=("secret/hidden",)))
    with pytest.raises(ConfigError, match=r"no deployment 'a/b' is on the .*: expected flow and deployment"):
        alerts("a/b", target=AlertTarget(block=("slack-webhook/ops",)))
    with pytest.raises(ConfigError, match="not given whom to alert"):
        alerts(NIGHTLY)
    with pytest.raises(ConfigError, match="a limit of alerts is given, and nobody to alert"):
        serve(shapes, limits=AlertLimits(drop=0.1))


@pytest.mark.parametrize(("limit", "noted"), [(0.05, True), (0.001, False)])
def test_a_limit_without_effect_is_noted(limit: float, noted: bool, capsys: pytest.CaptureFixture[str]) -> None:
    check_alerts(AlertLimits(quarantined=limit), AlertTarget(block=("slack-webhook/ops",)), max_quarantined=0.01)
    assert ("above --max-quarantined 0.01 a run fails" in capsys.readouterr().err) is noted


@pytest.mark.parametrize("limits", [{"quarantined": 1.1}, {"drop": -0.1}])
def test_impossible_limits_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected a fraction from 0 to 1"):
        AlertLimits(**limits)


@pytest.mark.parametrize("block", ["ops", "slack-webhook/", "/ops", "a/b/c"])
def test_a_block_has_a_type_and_a_name(block: str) -> None:
    with pytest.raises(ConfigError, match="expected the block's type and name, as slack-webhook/ops"):
        AlertTarget(block=(block,))


@pytest.mark.parametrize(
    "url", ["hooks.example.com/secret", "ftp://example.com/secret", "https:///secret", "http://[/secret"]
)
def test_an_address_that_is_none_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="is no URL") as error:
        AlertTarget(webhook=url)
    assert "secret" not in str(error.value)
    assert "secret" not in repr(AlertTarget(webhook="https://example.com/secret"))


@contextmanager
def serving(predict: PredictConfig, *options: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Serve on the tests' server in a process of its own, from when it is ready."""
    command = [sys.executable, "-m", "shardlens.flows.serve", predict.dataset, "--warehouse", predict.warehouse]
    command += ["--model", "unet", "--weights", "random", "--labels", str(predict.network.labels)]
    command += ["--max-quarantined", "0.5", "--cron", "0 3 1 1 *", *options]
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    with subprocess.Popen(
        command, env={**os.environ, **settings, **environment}, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            assert any("Ctrl-C stops it" in line for line in process.stderr)
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_a_served_schedule_has_alerts_as_long_as_they_are_asked_for(
    client: SyncPrefectClient, growing: PredictConfig, received: Receiver, tmp_path: Path
) -> None:
    """Its run is one of a process of its own. The address is given in the environment; no output, parameter or page holds it."""
    received.posts.clear()
    (tmp_path / "images/broken.png").write_bytes(b"no image")
    with serving(growing, "--now", "--alert-quarantined", "0.1", SHARDLENS_ALERT_WEBHOOK=received.url) as process:
        (post,) = waited(lambda: received.of("images quarantined"), 60)
        process.terminate()
        _, output = process.communicate(timeout=30)
    name = "dataset_inference/growing-by-unet"
    assert (post["path"], post["figures"]["share"]) == (f"/{SECRET}", pytest.approx(1 / 9))
    made = [each for each in client.read_automations() if each.name.startswith(name)]
    assert sorted(each.name for each in made) == sorted(f"{name}: {alert.title}" for alert in ALERTS)
    deployment = client.read_deployment_by_name(name)
    assert deployment.parameters["alerts"] == {"quarantined": 0.1}
    blocks = client.read_block_documents(include_secrets=False)
    seen = [output, *(each.model_dump_json() for each in (deployment, *made, *blocks))]
    assert not [text for text in seen if SECRET in text]
    asyncio.run(register(Runner(), RunnerDeployment.from_flow(dataset_inference, "growing-by-unet"), AlertTarget()))
    assert not [each for each in client.read_automations() if each.name.startswith(name)]
