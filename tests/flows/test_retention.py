"""Retention as a flow, on a real Prefect server."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient

from shardlens.flows.retention import RetentionConfig, retention
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.warehouse import runs
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.flows.seen import artifacts, flow_run
from tests.small_warehouse import add_dataset, add_run, begin, create, publish

DAYS_OLD = {"n1": 1, "n2": 40, "n3": 41, "killed": 50}


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """Three runs of two shards, and an unfinished one, all of different age."""
    warehouse = create(str(tmp_path))
    add_dataset(warehouse)
    for name in ("n1", "n2", "n3"):
        add_run(warehouse, name, [[0.9], [0.8], []])
    publish(begin(warehouse, "killed", 2), 0, [1, 2], [])
    for name, days in DAYS_OLD.items():
        for folder in (path for path in tmp_path.rglob(f"*{name}") if path.is_dir()):
            for path in folder.iterdir():
                os.utime(path, (time.time() - days * 86400,) * 2)
    return warehouse


@pytest.mark.prefect
def test_old_runs_and_orphans_go(client: SyncPrefectClient, warehouse: Warehouse) -> None:
    config = RetentionConfig(older_than="30d", keep=2, warehouse=warehouse.root)
    state = retention(config, return_state=True)
    result = state.result()
    assert [each.name for each in result.deleted.removed] == ["n3"]
    assert [each.name for each in result.collected.removed] == ["killed"]
    assert [record.name for record in runs.every(warehouse)] == ["n1", "n2"]
    run = flow_run(client, state)
    assert run.name.startswith("retention of all datasets: ")
    assert run.name.endswith(" kB removed")
    shown = artifacts(client, run.id)
    assert [row["name"] for row in json.loads(shown["deleted"].data)] == ["n3"]
    assert "unfinished, nothing written for 50 d" in shown["collected"].data


@pytest.mark.prefect
def test_a_dry_run_leaves_everything(client: SyncPrefectClient, warehouse: Warehouse) -> None:
    config = RetentionConfig(older_than="30d", keep=0, dry_run=True, warehouse=warehouse.root)
    state = retention(config, return_state=True)
    assert [each.name for each in state.result().deleted.removed] == ["n2", "n3"]
    assert len(runs.every(warehouse)) == 4
    assert flow_run(client, state).name.endswith(" kB would go")


def test_a_wrong_age_is_refused_before_the_run() -> None:
    with pytest.raises(ConfigError, match="older_than is 'month'"):
        RetentionConfig(older_than="month")
