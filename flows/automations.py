"""Alerts as Prefect automations: what goes wrong with a deployment's runs is sent to blocks of the server, or to a URL.

A deployment has one automation of each kind, known by its name: setting alerts again updates it, and what somebody switched
off on Prefect's page stays off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit
from uuid import UUID

from cyclopts import Parameter
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import BlockDocument
from prefect.events.actions import CallWebhook, SendNotification
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from pydantic import SecretStr

from shardlens.flows.alert_events import FELL, QUARANTINED
from shardlens.pipeline.errors import ConfigError

WEBHOOK = "webhook"
"""The block type that is called with JSON; all others are notified with a subject and a text."""
LINK = "{% if flow_run | ui_url %}\n\n{{ flow_run | ui_url }}{% endif %}"


@dataclass(frozen=True)
class AlertTarget:
    """Whom to alert: blocks of the Prefect server, a URL, or both."""

    block: Annotated[tuple[str, ...], Parameter(name="--alert-block", negative="", show_default=False)] = ()
    """A block of the Prefect server to alert by, as slack-webhook/ops or sendgrid-email/ops; may be given several times."""
    webhook: Annotated[
        str | None, Parameter(name="--alert-webhook", env_var="SHARDLENS_ALERT_WEBHOOK", show_env_var=True)
    ] = field(default=None, repr=False)
    """URL to post alerts to as JSON. It is kept in a block of the server, encrypted, and shown nowhere. Others may see a
    command line, but not its environment."""

    def __post_init__(self) -> None:
        for name in self.block:
            kind, _, rest = name.partition("/")
            if not kind or not rest or "/" in rest:
                raise ConfigError(f"block {name!r} cannot be: expected the block's type and name, as slack-webhook/ops")
        if self.webhook is not None and not _is_web(self.webhook):  # the address may be a secret
            raise ConfigError(
                "the address in SHARDLENS_ALERT_WEBHOOK or --alert-webhook is no URL: expected one as https://example.com/hook"
            )

    def __bool__(self) -> bool:
        """Whether anybody is to be alerted."""
        return bool(self.block or self.webhook)


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


@dataclass(frozen=True)
class Alert:
    """A kind of alert: which events it is about, and what it says. Texts are Prefect's templates, in Jinja."""

    title: str
    when: str
    events: frozenset[str]
    subject: str
    text: str
    figures: str = "event.payload"
    """Expression for the figures, as JSON has them."""
    within: timedelta = timedelta(0)
    """So often at most; further events until then are not reported."""


RUN = (
    '{"run": flow_run.name, "state": flow_run.state.name, "message": flow_run.state.message, '
    '"due": flow_run.expected_start_time | string}'
)
ALERTS = (
    Alert(
        "run failed",
        "A run failed, crashed or ran out of time.",
        frozenset(f"prefect.flow-run.{state}" for state in ("Failed", "Crashed", "TimedOut")),
        "{{ flow_run.name }}: {{ flow_run.state.name }}",
        "{{ flow_run.state.message }}",
        RUN,
    ),
    Alert(
        "run late",
        "A run did not start when it was due; reported once an hour at most.",
        frozenset({"prefect.flow-run.Late"}),
        "{{ deployment.name }}: run late",
        "The run due at {{ flow_run.expected_start_time }} has not started. Is a process alive that starts it?",
        RUN,
        within=timedelta(hours=1),  # after a failure of the machine all runs that were missed are late at once
    ),
    Alert(
        "images quarantined",
        "A larger share of a new run's images was quarantined than the parameter alerts allows.",
        frozenset({QUARANTINED}),
        "{{ event.payload.dataset }}: {{ event.payload.quarantined }} of {{ event.payload.images }} images quarantined",
        "{{ event.payload.message }}",
    ),
    Alert(
        "metric fell",
        "A metric is below that of the last run by more than the parameter alerts allows.",
        frozenset({FELL}),
        "{{ event.payload.dataset }}: {{ event.payload.metric }} fell by "
        "{{ '%.4f' | format(event.payload.before - event.payload.now) }}",
        "{{ event.payload.message }}",
    ),
)


async def find_blocks(client: PrefectClient, target: AlertTarget) -> list[BlockDocument]:
    """Find the blocks that are to be notified.

    Raises:
        ConfigError: there is none of that name, or it can alert nobody.
    """
    return [await _find_block(client, name) for name in target.block]


async def _find_block(client: PrefectClient, name: str) -> BlockDocument:
    kind, _, rest = name.partition("/")
    try:
        block = await client.read_block_document_by_name(rest, kind, include_secrets=False)
    except ObjectNotFound:
        documents = await client.read_block_documents(include_secrets=False)
        fitting = sorted(_name(block) for block in documents if _alerts(block))
        there = f"those that can alert are {', '.join(fitting)}" if fitting else "none that could alert is there yet"
        raise ConfigError(
            f"no block {name} is on this Prefect server, {there}: make it on the server's page, under Blocks, or as "
            "flows/README.md shows under Alerts"
        ) from None
    if not _alerts(block):
        raise ConfigError(
            f"block {name} cannot alert anybody: expected a block that notifies, as of the types slack-webhook, "
            "ms-teams-webhook or sendgrid-email, or one of type webhook"
        )
    return block


def _name(block: BlockDocument) -> str:
    return f"{_kind(block)}/{block.name}"


def _kind(block: BlockDocument) -> str:
    return block.block_type.slug if block.block_type else ""


def _alerts(block: BlockDocument) -> bool:
    """Whether a block can be notified or called."""
    capabilities = block.block_schema.capabilities if block.block_schema else []
    return block.name is not None and ("notify" in capabilities or _kind(block) == WEBHOOK)


async def set_alerts(
    client: PrefectClient, deployment: UUID, name: str, target: AlertTarget, blocks: Sequence[BlockDocument]
) -> None:
    """Make or update a deployment's automations; without a target, remove them.

    Args:
        name: of flow and deployment, as dataset_inference/nightly; the automations are named after it.
        blocks: those of the target, as `find_blocks` found them.
    """
    own = f"shardlens-alerts-{deployment}"
    actions = [(block.id, _kind(block) == WEBHOOK) for block in blocks]
    if target.webhook is not None:
        actions.append((await Webhook(url=SecretStr(target.webhook)).asave(own, overwrite=True, client=client), True))
    for alert in ALERTS:
        automation = _automation(alert, deployment, name, actions) if actions else None
        await _set(client, f"{name}: {alert.title}", automation)
    if target.webhook is None:
        await _delete_webhook(client, own)


async def _set(client: PrefectClient, name: str, automation: AutomationCore | None) -> None:
    """Let `automation` be the only one of this name, or none. Several are there if several processes began at once."""
    there = await _named(client, name)
    if automation is not None and not there:
        await client.create_automation(automation)
        there = await _named(client, name)
    if automation is not None and there:
        fields = automation.model_dump(exclude={"owner_resource"}) | {"enabled": there[0].enabled}
        await client.update_automation(there[0].id, AutomationCore(**fields))  # which sends the fields that are given
        there = there[1:]
    for surplus in there:
        await client.delete_automation(surplus.id)


async def _named(client: PrefectClient, name: str) -> list[Automation]:
    """The automations of a name, always in the same order."""
    return sorted(await client.read_automations_by_name(name), key=lambda automation: str(automation.id))


async def _delete_webhook(client: PrefectClient, name: str) -> None:
    try:
        block = await client.read_block_document_by_name(name, WEBHOOK, include_secrets=False)
        await client.delete_block_document(block.id)
    except ObjectNotFound:
        return


def _automation(alert: Alert, deployment: UUID, name: str, blocks: Sequence[tuple[UUID, bool]]) -> AutomationCore:
    trigger = EventTrigger(
        expect=set(alert.events),
        match_related={"prefect.resource.id": f"prefect.deployment.{deployment}"},
        posture=Posture.Reactive,
        threshold=1,
        within=alert.within,
    )
    return AutomationCore(
        name=f"{name}: {alert.title}",
        description=f"{alert.when} Made by shardlens, which overwrites changes; switched off here, it stays off.",
        enabled=True,
        tags=["shardlens"],
        trigger=trigger,
        actions=[
            CallWebhook(block_document_id=block, payload=_json(alert))
            if called
            else SendNotification(block_document_id=block, subject=alert.subject, body=alert.text + LINK)
            for block, called in blocks
        ],
    )


def _json(alert: Alert) -> str:
    """Template of the JSON that webhooks get: alert, subject, text, figures, url."""
    return (
        f"{{% set subject %}}{alert.subject}{{% endset %}}{{% set text %}}{alert.text}{{% endset %}}"
        f'{{{{ {{"alert": "{alert.title}", "subject": subject, "text": text, "figures": {alert.figures}, '
        '"url": flow_run | ui_url} | tojson }}'
    )
