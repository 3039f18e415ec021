"""What gc removes, and what it leaves alone: exactly the orphans go."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.delete import DeleteConfig, delete
from shardlens.pipeline.errors import ConfigError, DatasetError, RunError, StorageError
from shardlens.pipeline.gc import GcConfig, GcReport, gc
from shardlens.pipeline.verify import verify
from shardlens.pipeline.warehouse import removal, runs
from shardlens.pipeline.warehouse.datasets import Dataset, advance, latest
from shardlens.pipeline.warehouse.layout import Warehouse, to_json
from tests.small_warehouse import add_dataset, add_metrics, add_run, add_training, begin, create, publish

DAY = 86400.0
SCORES = [[0.9], [0.8, 0.7], []]


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """A dataset of two versions, a run that refers to the first, one that was scored, and a training run."""
    warehouse = create(str(tmp_path / "warehouse"))
    add_dataset(warehouse)
    add_dataset(warehouse, version="v3")
    add_run(warehouse, "first", SCORES)
    add_metrics(warehouse, "first", 0.5)
    add_training(warehouse, "trained", [1.0, 0.5])
    return warehouse


def aged(warehouse: Warehouse, days: float, *parts: str) -> None:
    place = Path(warehouse.path(*parts))
    for path in (place, *place.rglob("*")):
        os.utime(path, (time.time() - days * DAY,) * 2)


def held(warehouse: Warehouse) -> set[str]:
    files = (path for path in Path(warehouse.root).rglob("*") if path.is_file())
    return {path.relative_to(warehouse.root).as_posix() for path in files}


def collected(warehouse: Warehouse, **options: object) -> GcReport:
    return gc(GcConfig(warehouse=warehouse.root, **options))  # type: ignore[arg-type]


def what(report: GcReport) -> list[tuple[str, str, str]]:
    return [(each.kind, each.name, each.why) for each in report.removed]


def test_what_is_needed_stays_however_old(warehouse: Warehouse) -> None:
    record = begin(warehouse, "begun", 2)
    publish(record, 0, [1, 2], [])
    aged(warehouse, 6)
    before = held(warehouse)
    assert collected(warehouse).removed == ()
    assert held(warehouse) == before
    assert not verify(warehouse.root, "first").damaged


def test_exactly_the_orphans_go(warehouse: Warehouse) -> None:
    add_dataset(warehouse, version="v4")
    needed = held(warehouse) - {path for path in held(warehouse) if "/v3/" in path}
    for run in ("killed", "unrecorded"):
        publish(begin(warehouse, run, 2), 0, [1, 2], [])
        add_metrics(warehouse, run, 0.5)
    storage.delete(storage.join(warehouse.run("unrecorded"), "run.json"))
    first = runs.find(warehouse, "first")
    storage.publish(
        storage.join(warehouse.predictions("shapes", "first"), "shard-00009-aa.parquet"), b"never committed"
    )
    storage.publish(storage.join(warehouse.outcomes("elsewhere", "first"), "shard-00000.parquet"), b"of an earlier run")
    storage.publish(storage.join(warehouse.dataset("shapes", "v1"), "images.parquet"), b"half an ingest")
    storage.publish(storage.join(warehouse.dataset("half", "v1"), "images.parquet"), b"half an ingest")
    storage.publish(storage.join(warehouse.checkpoints("trained"), "step-000002/state.pt"), b"half a checkpoint")
    storage.publish(storage.join(warehouse.checkpoints("released"), "step-000002/state.pt"), b"of a run given back")
    storage.publish(storage.join(warehouse.checkpoints("by-hand"), "model.safetensors"), b"put there by a user")
    Path(first.folder, ".publishing-dead").write_bytes(b"1234")
    aged(warehouse, 8)
    planned = collected(warehouse, dry_run=True)
    assert what(planned) == [
        ("parts", "first", "replaced, or never committed"),
        ("run", "killed", "unfinished, nothing written for 8 d"),
        ("run", "unrecorded", "there is no such run"),
        ("dataset", "half", "its ingest never finished"),
        ("version", "shapes@v1", "its ingest never finished"),
        ("version", "shapes@v3", "no run refers to it"),
        ("checkpoint", "released", "there is no such training run"),
        ("parts", "trained", "checkpoints that were not written to their end"),
        ("leftovers", warehouse.root, "left by processes that died"),
    ]
    before = held(warehouse)
    bytes_there = sum(Path(warehouse.root, path).stat().st_size for path in before)
    report = collected(warehouse)
    assert what(report) == what(planned)
    assert held(warehouse) == needed | {"checkpoints/by-hand/model.safetensors"}
    assert report.objects == len(before) - len(held(warehouse)) == planned.objects
    assert report.bytes == bytes_there - sum(Path(warehouse.root, p).stat().st_size for p in held(warehouse))
    assert collected(warehouse).removed == ()
    assert not verify(warehouse.root, "first").damaged


def test_what_is_young_stays(warehouse: Warehouse) -> None:
    publish(begin(warehouse, "killed", 2), 0, [1, 2], [])
    storage.delete(storage.join(warehouse.run("killed"), "run.json"))
    storage.publish(storage.join(warehouse.dataset("half", "v1"), "images.parquet"), b"an ingest under way")
    assert collected(warehouse).removed == ()
    assert [each.name for each in collected(warehouse, older_than="0s").removed] == ["killed", "half"]


def test_replaced_parts_stay_for_a_day_after_the_commit_that_replaced_them(warehouse: Warehouse) -> None:
    first = runs.find(warehouse, "first")
    better = publish(first, 0, [1, 2], [], generation=1)
    runs.recommit(first, [better, first.parts[1]], {})
    assert collected(warehouse, older_than="0s").removed == ()  # a slow reader may have them open
    aged(warehouse, 2, "predictions")
    aged(warehouse, 2, "outcomes")
    assert collected(warehouse).removed == ()
    aged(warehouse, 2, "runs")
    assert what(collected(warehouse)) == [("parts", "first", "replaced, or never committed")]
    assert runs.present(runs.find(warehouse, "first")).keys() == {0, 1}


def test_a_retry_under_way_keeps_its_parts(warehouse: Warehouse) -> None:
    first = runs.find(warehouse, "first")
    publish(first, 0, [1, 2], [], generation=1)
    aged(warehouse, 9)
    before_it_is_vouched_for = storage.join(warehouse.predictions("shapes", "first"), "shard-00001-ab.parquet")
    storage.publish(before_it_is_vouched_for, b"new rows")
    assert collected(warehouse, older_than="0s").removed == ()


@pytest.mark.parametrize("user", ["predict", "predict unfinished", "train", "train unfinished", "train of 0.1"])
def test_a_version_that_anything_refers_to_stays(warehouse: Warehouse, user: str) -> None:
    delete(DeleteConfig("run", ("first",), warehouse=warehouse.root))
    if user == "predict":
        add_run(warehouse, "again", SCORES)
    elif user == "predict unfinished":
        begin(warehouse, "again", 2)
    else:
        document = {"dataset": "shapes", "settings": {"dataset_version": "v2"} if user != "train of 0.1" else {}}
        name = "train.json" if user == "train" else "run.json"
        storage.publish(storage.join(warehouse.checkpoints("more"), name), to_json(document))
    add_dataset(warehouse, version="v3")
    aged(warehouse, 2)
    assert collected(warehouse).removed == ()
    for kind, name in (("run", "again"), ("checkpoint", "more"), ("checkpoint", "trained")):
        delete(DeleteConfig(kind, (name,), warehouse=warehouse.root))  # type: ignore[arg-type]
    assert what(collected(warehouse)) == [("version", "shapes@v2", "no run refers to it")]


def test_the_version_before_stays_for_a_day_since_a_command_may_have_opened_it(warehouse: Warehouse) -> None:
    add_dataset(warehouse, version="v4")
    aged(warehouse, 3)
    aged(warehouse, 2, "datasets/shapes/v3")
    os.utime(warehouse.path("datasets/shapes/latest.json"))
    assert collected(warehouse).removed == ()
    aged(warehouse, 2, "datasets/shapes/latest.json")
    assert what(collected(warehouse)) == [("version", "shapes@v3", "no run refers to it")]


def test_who_begins_while_gc_looks_is_seen(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run and a run of an old version that begin just before gc marks them, and one that begins just after."""
    add_dataset(warehouse, version="v4")
    publish(begin(warehouse, "killed", 2), 0, [1, 2], [])
    aged(warehouse, 9)
    mark = removal.mark

    def begins_first(each: removal.Removal, by: removal.By) -> None:
        if each.name == "killed":
            begin(warehouse, "killed", 2)
        mark(each, by)
        if each.name == "shapes@v3":
            with pytest.raises(DatasetError, match="shapes@v3 is being deleted"):
                Dataset.open(warehouse, "shapes", "v3").check_stays()

    monkeypatch.setattr(removal, "mark", begins_first)
    assert what(collected(warehouse)) == [("version", "shapes@v3", "no run refers to it")]
    monkeypatch.undo()
    record = begin(warehouse, "killed", 2)  # no mark is left
    assert set(runs.finished(record)) == {0}


def test_an_ingest_of_an_old_version_does_not_point_to_what_is_being_removed(warehouse: Warehouse) -> None:
    pointer = latest(warehouse, "shapes")
    removal.mark(removal.Removal("version", "shapes@v2", "", warehouse.dataset("shapes", "v2")), "gc")
    with pytest.raises(DatasetError, match="shapes@v2 is being deleted"):
        advance(warehouse, "shapes", pointer, "v2")
    storage.delete(storage.join(warehouse.dataset("shapes", "v2"), removal.MARK))
    storage.delete(storage.join(warehouse.dataset("shapes", "v2"), "images.parquet"))
    with pytest.raises(DatasetError, match="shapes@v2 is being deleted"):
        advance(warehouse, "shapes", pointer, "v2")
    assert latest(warehouse, "shapes") == pointer


def test_marks_of_a_gc_that_was_killed_do_not_lock_for_ever(warehouse: Warehouse) -> None:
    record = begin(warehouse, "begun", 2)
    removal.mark(removal.Removal("run", "begun", "", record.folder), "gc")
    with pytest.raises(RunError, match="finish it with 'shardlens gc'"):
        begin(warehouse, "begun", 2)
    assert collected(warehouse).removed == ()
    with pytest.raises(RunError, match="is being deleted"):  # it may be alive
        begin(warehouse, "begun", 2)
    aged(warehouse, 1 / 24, "runs/begun/deleting.json")
    assert collected(warehouse).removed == ()
    begin(warehouse, "begun", 2)


def test_with_a_damaged_document_nothing_is_removed(warehouse: Warehouse) -> None:
    publish(begin(warehouse, "killed", 2), 0, [1, 2], [])
    aged(warehouse, 9)
    Path(warehouse.run("first"), "run.json").write_text("{")
    before = held(warehouse)
    with pytest.raises(StorageError, match=r"first/run.json is not JSON"):
        collected(warehouse)
    assert held(warehouse) == before


def test_a_wrong_age_is_explained() -> None:
    with pytest.raises(ConfigError, match="unfinished is 'week'"):
        GcConfig(unfinished="week")
