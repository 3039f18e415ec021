"""Prefect's switches: set before it is imported, and the environment's own word stands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from shardlens.flows.settings import DEFAULTS, apply_defaults
from tests.conftest import ROOT


def test_the_environment_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    monkeypatch.delenv("PREFECT_SERVER_ANALYTICS_ENABLED")
    apply_defaults()
    assert (os.environ["DO_NOT_TRACK"], os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"]) == ("0", "false")


def test_prefect_heard_them() -> None:
    asked = (
        "import flows\n"
        "from prefect.settings import get_current_settings\n"
        "from prefect._internal.analytics import is_telemetry_enabled\n"
        "s = get_current_settings()\n"
        "print(s.server.analytics_enabled, s.cloud.enable_orchestration_telemetry)\n"
        "print(s.telemetry.enable_resource_metrics, is_telemetry_enabled())\n"
        "print(s.server.concurrency.lease_storage)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in {*DEFAULTS, "CI"}}
    command = [sys.executable, "-c", asked]
    found = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [*["False"] * 4, "prefect.server.concurrency.lease_storage.filesystem"]
