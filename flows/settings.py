"""Prefect's switches as Shardlens sets them: nothing leaves the machine, and no more noise than its user needs."""

from __future__ import annotations

import os

DEFAULTS = {
    # Telemetry, all that Prefect 3.8 has: usage events of the SDK; heartbeats of the server and events of its page
    # in the browser; traces and resource metrics.
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # Who holds a schedule's one slot is kept on disk. In memory, as by Prefect itself, it would be forgotten when the
    # machine fails in the middle of a run: nobody could give the slot back, and no run would ever start again.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}
"""By environment variable; what the environment says already stands."""


def apply_defaults() -> None:
    """Put the defaults into the environment, for this process and those that it starts."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
