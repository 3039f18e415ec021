"""`shardlens alerts`: alert on what goes wrong with the runs of a deployment, wherever it was made."""

from __future__ import annotations

import asyncio
from typing import Annotated

from cyclopts import Parameter
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from shardlens.flows.automations import ALERTS, AlertTarget, find_blocks, set_alerts
from shardlens.flows.server import prefect_server
from shardlens.pipeline.cli.console import Flat
from shardlens.pipeline.errors import ConfigError


def alerts(
    deployment: str,
    *,
    target: Annotated[AlertTarget, Flat] = AlertTarget(),  # noqa: B008 - frozen
    remove: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Alert on failed and late runs of a deployment, quarantined images and fallen metrics, by Prefect automations.

    Giving the command again updates them.

    Parameters
    ----------
    deployment:
        Flow and deployment on the Prefect server, as dataset_inference/nightly.
    remove:
        Remove the alerts of this deployment.
    """
    if not (target or remove):
        raise ConfigError(
            "it is not given whom to alert: name a block with --alert-block or a URL with --alert-webhook, or give --remove"
        )
    with prefect_server():
        asyncio.run(_set(deployment, AlertTarget() if remove else target))  # whatever the environment says
    kinds = ", ".join(alert.title for alert in ALERTS)
    print(f"{deployment}: {'no alerts' if remove else f'alerts on {kinds}'}")


async def _set(name: str, target: AlertTarget) -> None:
    async with get_client() as client:
        try:
            deployment = await client.read_deployment_by_name(name)
        except (ObjectNotFound, ValueError):
            there = await client.read_deployments()
            flows = {flow.id: flow.name for flow in await client.read_flows()}
            known = ", ".join(sorted(f"{flows.get(each.flow_id)}/{each.name}" for each in there)) or "none"
            raise ConfigError(
                f"no deployment {name!r} is on the Prefect server at {client.api_url}: expected flow and deployment, of "
                f"those that are there: {known}"
            ) from None
        await set_alerts(client, deployment.id, name, target, await find_blocks(client, target))
