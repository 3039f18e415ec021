"""`delete`, `gc` and `runs` as commands: what they ask, print and refuse."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.runs import for_people, list_runs
from shardlens.pipeline.warehouse import removal, runs
from shardlens.pipeline.warehouse.layout import Warehouse, to_json
from tests.conftest import ROOT
from tests.small_warehouse import add_dataset, add_run, add_training, begin, create, publish

SCORES = [[0.9], [0.8, 0.7], []]


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    warehouse = create(str(tmp_path))
    add_dataset(warehouse)
    for name in ("first", "second"):
        add_run(warehouse, name, SCORES)
    return warehouse


def shardlens(warehouse: Warehouse, *words: str, answer: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command; with an answer, on a terminal where it is typed."""
    command = [sys.executable, "-c", "from shardlens.pipeline.cli import main; main()", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".src"), "SHARDLENS_WAREHOUSE": warehouse.root}
    typed, terminal = pty.openpty()
    if answer is not None:
        os.write(typed, answer.encode())
    stdin = subprocess.DEVNULL if answer is None else terminal
    try:
        return subprocess.run(
            command, env=environment, stdin=stdin, capture_output=True, text=True, timeout=120, check=False
        )
    finally:
        os.close(typed)
        os.close(terminal)


def names(warehouse: Warehouse) -> list[str]:
    return [record.name for record in runs.committed(warehouse)]


def test_one_run_goes_without_a_question(warehouse: Warehouse) -> None:
    done = shardlens(warehouse, "delete", "run", "first")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0].startswith("removed 6 objects, ")
    assert lines[0].endswith(" kB (1 run)")
    assert names(warehouse) == ["second"]


def test_several_go_after_a_yes_alone(warehouse: Warehouse) -> None:
    for answer in (None, "n\n", "\n"):
        done = shardlens(warehouse, "delete", "run", "*", answer=answer)
        assert done.returncode == 1
        wanted = "2 things would be deleted: confirm with --yes" if answer is None else "error: nothing was deleted"
        assert wanted in done.stderr
        assert "would remove 12 objects" in done.stderr
        assert names(warehouse) == ["first", "second"]
    assert shardlens(warehouse, "delete", "run", "*", answer="y\n").returncode == 0
    assert names(warehouse) == []


def test_yes_and_json_are_for_programs(warehouse: Warehouse) -> None:
    done = shardlens(warehouse, "delete", "run", "first", "second", "--yes", "--json")
    report = json.loads(done.stdout)
    assert (report["objects"], [each["name"] for each in report["removed"]]) == (12, ["first", "second"])
    assert json.loads(shardlens(warehouse, "gc", "--json").stdout)["objects"] == 0


def test_a_refusal_is_one_line(warehouse: Warehouse) -> None:
    done = shardlens(warehouse, "delete", "dataset", "shapes")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: runs refer to dataset shapes: first, second; delete these runs with it (--with-runs), or leave them behind "
        "(--force)\n"
    )


def test_the_list_says_how_large_and_how_far_runs_are(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    record = begin(warehouse, "begun", 3)
    publish(record, 0, [1, 2], [])
    publish(record, 0, [1, 2], [], generation=1)
    publish(record, 2, [5, 6], [])
    add_training(warehouse, "trained", [1.0, 0.5])
    training = warehouse.checkpoints("training")
    storage.publish(storage.join(training, "run.json"), to_json({"dataset": "shapes"}))
    for step in (4, 12):
        storage.publish(storage.join(training, f"step-{step:06d}", "checkpoint.json"), b"{}")
    removal.mark(removal.Removal("run", "second", "", warehouse.run("second")), "delete")
    storage.delete(storage.join(warehouse.run("second"), "commit.json"))
    listed = {run.run: run for run in list_runs(warehouse.root)}
    states = {name: for_people(run)["state"] for name, run in listed.items()}
    assert states == {
        "begun": "2 of 3 shards",
        "first": "done",
        "second": "deleting",
        "trained": "done",
        "training": "step 12",
    }
    places = ("predictions", "outcomes")
    for name in ("first", "begun"):
        parts = [e for place in places for e in storage.walk(warehouse.path(place)) if f"run={name}/" in e.name]
        assert listed[name].bytes == sum(entry.size for entry in parts) > 0
    assert listed["trained"].bytes == sum(e.size for e in storage.walk(warehouse.checkpoints("trained")))
    monkeypatch.setenv("COLUMNS", "160")
    printed = shardlens(warehouse, "runs").stdout
    assert "2 of 3" in printed
    assert for_people(listed["first"])["size"] in printed
