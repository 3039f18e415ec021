"""`shardlens serve`: predict a dataset on a schedule, with a Prefect server of its own where none is named."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Annotated, Any
from uuid import UUID
from zoneinfo import available_timezones

from cyclopts import App, Parameter
from prefect.client.orchestration import get_client
from prefect.deployments.flow_runs import arun_deployment
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_API_AUTH_STRING
from prefect.types.entrypoint import EntrypointType

from shardlens.flows import cron
from shardlens.flows.alert_events import AlertLimits
from shardlens.flows.automations import AlertTarget, find_blocks, set_alerts
from shardlens.flows.credentials import auth_file, auth_string
from shardlens.flows.inference import dataset_inference
from shardlens.flows.keeper import ONE_AT_A_TIME, Keeper
from shardlens.flows.parameter_forms import given
from shardlens.flows.retries import RetryPolicy
from shardlens.flows.server import prefect_server
from shardlens.pipeline import storage
from shardlens.pipeline.cli.console import Flat
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.executors.base import ExecutorConfig
from shardlens.pipeline.ingest import sources
from shardlens.pipeline.networks.labels import match
from shardlens.pipeline.networks.resolve import Network, resolve
from shardlens.pipeline.predict import PredictConfig
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import Warehouse, check_name


@dataclass(frozen=True)
class ServeConfig:
    """When a dataset is predicted, and the stages before and after the prediction."""

    cron: str = "0 * * * *"
    """Minute, hour, day of month, month, day of week. '30 2 * * *': at half past two each night. Default: each hour."""
    timezone: str = "UTC"
    """Time zone of the schedule, as Europe/Berlin. In a zone with summer time the hour that comes twice counts once."""
    name: str | None = None
    """Name of the deployment; default: dataset and model. Serving it again replaces its settings."""
    now: Annotated[bool, Parameter(negative="")] = False
    """Predict once at the start, too."""
    refresh: bool = True
    """Look for new images at the dataset's source before each run, and re-ingest it if there are any."""
    evaluate: bool = True
    """Score each run, if the dataset has annotations."""
    port: int | None = None
    """Port of the embedded Prefect server; default: 4200, or a free one. With PREFECT_API_URL set, that server is used."""

    def __post_init__(self) -> None:
        if self.timezone not in available_timezones():
            raise ConfigError(f"time zone {self.timezone!r} is not known: expected one as UTC or Europe/Berlin")
        if self.name is not None:
            check_name(self.name, "deployment")
        cron.schedule(self.cron, self.timezone)


def serve(
    config: Annotated[PredictConfig, Flat],
    *,
    schedule: Annotated[ServeConfig, Flat] = ServeConfig(),
    executor: Annotated[ExecutorConfig, Flat] = ExecutorConfig(),  # noqa: B008 - frozen
    retry: Annotated[RetryPolicy, Flat] = RetryPolicy(),  # noqa: B008 - frozen
    limits: Annotated[AlertLimits, Flat] = AlertLimits(),  # noqa: B008 - frozen
    target: Annotated[AlertTarget, Flat] = AlertTarget(),  # noqa: B008 - frozen
) -> None:
    """Predict a dataset on a schedule, until interrupted; Prefect's page shows the runs and takes more by hand.

    What is new at the dataset's source is taken in first. A dataset that did not change is not predicted again.
    """
    network = checked(config, schedule)
    check_alerts(limits, target, config.max_quarantined)
    name = schedule.name or f"{config.dataset}-by-{network.model}"
    parameters: dict[str, Any] = {
        "predict": given(placed(config)),
        "refresh": schedule.refresh,
        "evaluate": schedule.evaluate,
        "executor": given(executor),
        "retry": given(retry),
        "alerts": given(limits),
    }
    deployment = RunnerDeployment.from_flow(
        dataset_inference,
        name,
        schedule=cron.schedule(schedule.cron, schedule.timezone),
        concurrency_limit=ONE_AT_A_TIME,
        parameters=parameters,
        tags=["shardlens", config.dataset],
        version=version("shardlens"),
        entrypoint_type=EntrypointType.MODULE_PATH,  # a run imports the flow anew; it could not be sent
    )
    embedded = PREFECT_API_URL.value() is None
    if embedded:
        print("starting a Prefect server on this machine", file=sys.stderr, flush=True)  # it takes some seconds
    with prefect_server(schedule.port) as url:
        page = url.removesuffix("/api")
        paused = asyncio.run(keep(deployment, schedule, target, page, login() if embedded else None))
    after = "the schedule is paused until it is served again" if paused else "another process still serves the schedule"
    print(f"stopped; {after}", file=sys.stderr)


def login() -> str:
    """Say how to log in on the embedded server's page. A log file may have other readers: there the password's place is named."""
    if PREFECT_SERVER_API_AUTH_STRING.value():
        return "the page asks for PREFECT_SERVER_API_AUTH_STRING"
    if sys.stderr.isatty():
        return f"the page asks once for a login; paste {auth_string()} (kept in {auth_file()}, readable by you alone)"
    return f"the page asks once for a login; paste the complete line of {auth_file()}, readable by you alone"


def check_alerts(limits: AlertLimits, target: AlertTarget, max_quarantined: float) -> None:
    """Make sure that limits alert somebody, and note one that has no effect.

    Args:
        max_quarantined: fraction of quarantined images above which a run fails.

    Raises:
        ConfigError: nobody is named.
    """
    if limits != AlertLimits() and not target:
        raise ConfigError(
            "a limit of alerts is given, and nobody to alert: name a block with --alert-block, or a URL in "
            "SHARDLENS_ALERT_WEBHOOK or with --alert-webhook"
        )
    if target and limits.quarantined >= max_quarantined:
        print(
            f"--alert-quarantined {limits.quarantined} has no effect: above --max-quarantined {max_quarantined} a run fails, "
            "which is alerted, too",
            file=sys.stderr,
        )


async def keep(
    deployment: RunnerDeployment, schedule: ServeConfig, target: AlertTarget, page: str, login: str | None = None
) -> bool:
    """Register a deployment with its alerts and start its runs when they are due, until interrupted or terminated.

    Returns whether the schedule was paused then: not while another process serves it.

    Raises:
        ConfigError: a block that is to be notified is not there.
    """
    runner = Keeper(name=deployment.name, pause_on_shutdown=False)
    runner.listen()
    deployment_id = await register(runner, deployment, target)

    async def ready() -> None:
        _announce(deployment, schedule, f"{page}/deployments/deployment/{deployment_id}", login)
        if schedule.now:
            await arun_deployment(deployment_id, timeout=0, as_subflow=False)

    return await runner.keep(deployment_id, ready)


async def register(runner: Runner, deployment: RunnerDeployment, target: AlertTarget) -> UUID:
    """Put a deployment on the server, with the alerts that are asked for and no others.

    Raises:
        ConfigError: a block that is to be notified is not there; nothing was changed.
    """
    async with get_client() as client:
        blocks = await find_blocks(client, target)
        deployment_id = await runner.aadd_deployment(deployment)
        await set_alerts(client, deployment_id, f"{deployment.flow_name}/{deployment.name}", target, blocks)
    return deployment_id


def _announce(deployment: RunnerDeployment, schedule: ServeConfig, page: str, login: str | None) -> None:
    """Say what is served, and where its page is."""
    print(f"{deployment.flow_name}/{deployment.name}: '{schedule.cron}' {schedule.timezone}", file=sys.stderr)
    if note := cron.clock_change_note(schedule.cron, schedule.timezone):
        print(f"  {note}", file=sys.stderr)
    print(f"  runs and artifacts: {page}", file=sys.stderr)
    if login is not None:
        print(f"  {login}", file=sys.stderr)
    print("  Ctrl-C stops it", file=sys.stderr, flush=True)


def checked(config: PredictConfig, schedule: ServeConfig) -> Network:
    """Make sure now, not at night, that the scheduled runs will find what they need.

    Raises:
        ShardlensError: dataset, network or labels are not there or do not fit together.
    """
    if config.run is not None:
        raise ConfigError(
            f"--run {config.run} cannot name the runs of a schedule, of which each new version of the dataset has one: "
            "leave it out, they are named after model and settings"
        )
    if "@" in config.dataset:
        raise ConfigError(
            f"{config.dataset} is one version of a dataset, and never changes: name the dataset alone to predict what is new "
            "on a schedule, or predict this version once with 'shardlens predict'"
        )
    cron.first_run(schedule.cron, schedule.timezone)
    dataset = Dataset.open(Warehouse(config.warehouse), config.dataset)
    if schedule.refresh:
        sources(config.warehouse, config.dataset)
    network = resolve(config.network)
    match(network.labels, dataset.categories)
    return network


def placed(config: PredictConfig) -> PredictConfig:
    """Make places absolute, so that they hold in any folder."""
    weights, labels = _absolute(config.network.weights), _absolute(config.network.labels)
    network = replace(config.network, weights=weights, labels=labels)
    return replace(config, warehouse=storage.normalize(config.warehouse), network=network)


def _absolute(place: str | None) -> str | None:
    return os.path.abspath(place) if place is not None and os.path.exists(place) else place


if __name__ == "__main__":
    from shardlens.pipeline.cli import run

    run(App(name="shardlens.flows.serve", default_command=serve))
