"""What a run shows of itself: keys, tables, and a bar that is in no hurry."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client

from shardlens.flows.artifacts import ProgressArtifacts, category_rows, epoch_rows, key, mean_rows, run_line
from shardlens.pipeline.evaluate import Evaluation
from shardlens.pipeline.executors.base import Progress
from shardlens.pipeline.predict import PredictReport
from shardlens.pipeline.warehouse import tables
from tests.flows.seen import artifacts, flow_run

REPORT = PredictReport(
    "unet-1",
    "shapes",
    "abc",
    8,
    21,
    1,
    "bf16",
    2,
    4.0,
    2.0,
    0.1,
    {},
    (),
    "/w/predictions/dataset=shapes/run=unet-1",
    predicted=8,
)


def scored(*rows: tuple[str, str, int | None, str | None, float | None]) -> Evaluation:
    """An evaluation of (task, metric, category id, category, value)."""
    columns = ("task", "metric", "category_id", "category", "value")
    filled = [{"run": "r", "dataset": "d", "support": 7, **dict(zip(columns, row, strict=True))} for row in rows]
    metrics = tables.from_rows(filled, tables.METRICS)
    facts: dict[str, Any] = {"images": 8, "quarantined": 0, "notes": (), "metrics_uri": "/m", "curves_uri": "/c"}
    return Evaluation("r", "d", ("bbox",), metrics, tables.from_rows([], tables.CURVES), **facts)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("shapes", "metrics-shapes"), ("COCO_val.2017+", "metrics-coco-val-2017"), ("a--b", "metrics-a-b")],
)
def test_keys_are_what_prefect_takes(name: str, expected: str) -> None:
    assert key("metrics", name) == expected


def test_means_are_a_row_each() -> None:
    found = scored(
        ("bbox", "AP", None, None, 0.123456), ("bbox", "APlarge", None, None, None), ("bbox", "AP", 1, "cat", 1.0)
    )
    assert mean_rows(found) == [
        {"task": "bbox", "metric": "AP", "value": 0.1235},
        {"task": "bbox", "metric": "APlarge", "value": "undefined"},
    ]


def test_categories_are_a_row_each_with_a_column_for_each_metric() -> None:
    found = scored(
        ("bbox", "AP", None, None, 0.5),
        ("bbox", "AP", 1, "cat", 0.25),
        ("bbox", "AP50", 1, "cat", 0.5),
        ("semantic", "Dice", 1, "cat", None),
    )
    assert category_rows(found) == [
        {"task": "bbox", "category": "cat", "support": 7, "AP": 0.25, "AP50": 0.5, "Dice": ""},
        {"task": "semantic", "category": "cat", "support": 7, "AP": "", "AP50": "", "Dice": "undefined"},
    ]


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({}, r"1 quarantined; 4.0 s, 2.0 images/s in bf16, 2 shards were there already"),
        ({"resumed_shards": 0}, r"1 quarantined; 4.0 s, 2.0 images/s in bf16"),
        (
            {"predicted": 3, "carried": 1005, "carried_from": "unet-0", "resumed_shards": 0},
            r"1 quarantined; 3 predicted, 1,005 unchanged and carried over from run unet-0; 4.0 s, 2.0 images/s in bf16",
        ),
        ({"predicted": 0}, r"1 quarantined; nothing to do, the run was complete before"),
    ],
)
def test_a_run_is_summarized_in_a_line(changes: dict[str, Any], end: str) -> None:
    line = run_line(replace(REPORT, **changes))
    assert line == f"run unet-1: 21 predictions in 8 images of shapes@abc, {end}"


@flow(name="progress")
def shows(every_s: float, steps: int) -> None:
    bar = ProgressArtifacts("shapes", every_s)
    for done in range(steps + 1):
        bar(Progress("predict", done, steps, detail="1 quarantined" if done else ""))


@flow(name="deleted")
def shows_what_is_deleted() -> None:
    bar = ProgressArtifacts("shapes", every_s=0)
    bar(Progress("predict", 1, 2))
    with get_client(sync_client=True) as client:
        client.delete_artifact(bar.bars["predict"])
    bar(Progress("predict", 2, 2))


@pytest.mark.prefect
def test_the_bar_shows_the_beginning_and_the_end_at_least(client: SyncPrefectClient) -> None:
    state = shows(every_s=3600, steps=200, return_state=True)
    bar = artifacts(client, flow_run(client, state).id)["progress-predict-shapes"]
    assert (bar.data, bar.description) == (100.0, "shapes: 200 of 200 images, 1 quarantined")


@pytest.mark.prefect
def test_nothing_to_do_shows_no_bar(client: SyncPrefectClient) -> None:
    run = flow_run(client, shows(every_s=0, steps=0, return_state=True))
    assert artifacts(client, run.id) == {}


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
def test_a_bar_that_was_deleted_does_not_end_the_stage(caplog: pytest.LogCaptureFixture) -> None:
    assert shows_what_is_deleted(return_state=True).is_completed()
    assert "the progress of predict cannot be shown: " in caplog.text


def test_the_table_of_a_training_begins_with_its_epoch(tmp_path: Path) -> None:
    losses = [{"bbox": 1.0, "classification": 2.0, "epoch": n, "loss": 3.0} for n in (1, 2)]  # sorted, as JSON has it
    document = {"losses": losses, "validations": [{"epoch": 2, "step": 8, "AP": 0.5}]}
    (tmp_path / "train.json").write_text(json.dumps(document))
    first, second = epoch_rows(str(tmp_path))
    assert list(first) == ["epoch", "loss", "bbox", "classification", "AP"]
    assert (first["AP"], second["AP"], second["epoch"]) == ("", 0.5, 2)
