"""Names of flow runs: what is done, to which version, with which outcome; a name that somebody gave is kept."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import coolname.data  # Prefect makes its names with it
import httpx
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

Namer = Callable[[dict[str, Any]], str]
"""Makes a name of a flow run's parameters."""


def named_by(make: Namer) -> Callable[[], str]:
    """Return Prefect's `flow_run_name`: the user's own name, else what `make` makes of the parameters."""

    def run_name() -> str:
        given = str(flow_run.name or "")
        return given if given and not is_generated(given) else make(flow_run.parameters)

    return run_name


def is_generated(name: str) -> bool:
    """Whether Prefect's server made up a name, as 'amber-falcon', for want of one."""
    return name.count("-") > 0 and set(name.split("-")) <= _words()


@functools.cache
def _words() -> frozenset[str]:
    """All words of Prefect's generator: its lists hold words, and phrases of several."""
    lists = [entry for entry in coolname.data.config.values() if isinstance(entry, dict)]
    texts = [text for entry in lists for text in (*entry.get("words", ()), *entry.get("phrases", ()))]
    phrases = [text if isinstance(text, str) else " ".join(text) for text in texts]
    return frozenset(word for phrase in phrases for word in phrase.replace("-", " ").split())


def rename(default: str, text: str) -> None:
    """Give the flow run of this process another name, if it still has its default one."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.name != default:
        return
    try:
        context.client.set_flow_run_name(context.flow_run.id, text)
    except (httpx.HTTPError, PrefectException) as error:
        get_run_logger().warning("the run cannot be renamed to %r: %s", text, error)
