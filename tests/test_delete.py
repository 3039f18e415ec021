"""Deleting runs, datasets and checkpoints: what is chosen, what is refused, what is left."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.delete import DeleteConfig, delete
from shardlens.pipeline.errors import ConfigError, DatasetError, RunError
from shardlens.pipeline.gc import GcConfig, gc
from shardlens.pipeline.query import query
from shardlens.pipeline.warehouse import removal, runs
from shardlens.pipeline.warehouse.ages import ago, seconds, size
from shardlens.pipeline.warehouse.datasets import Dataset, list_datasets
from shardlens.pipeline.warehouse.layout import Warehouse, to_json
from tests.small_warehouse import add_dataset, add_metrics, add_run, add_training, begin, create, publish

DAY = 86400.0
SCORES = [[0.9], [0.8, 0.7], []]


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    warehouse = create(str(tmp_path))
    add_dataset(warehouse)
    return warehouse


def aged(warehouse: Warehouse, days: float, *parts: str) -> None:
    """Let everything below a place have been written so many days ago."""
    for path in Path(warehouse.path(*parts)).rglob("*"):
        os.utime(path, (time.time() - days * DAY,) * 2)


def held(warehouse: Warehouse) -> list[str]:
    return [path.relative_to(warehouse.root).as_posix() for path in sorted(Path(warehouse.root).rglob("*"))]


def names(warehouse: Warehouse) -> list[str]:
    return [record.name for record in runs.committed(warehouse)]


def of(warehouse: Warehouse, kind: str, *names: str, **options: object) -> DeleteConfig:
    return DeleteConfig(kind, names, warehouse=warehouse.root, **options)  # type: ignore[arg-type]


def test_a_run_goes_with_its_parts_and_scores_and_the_others_stay(warehouse: Warehouse) -> None:
    add_run(warehouse, "stays", SCORES)
    before = held(warehouse)
    add_run(warehouse, "goes", SCORES)
    add_metrics(warehouse, "goes", 0.5)
    storage.publish(storage.join(warehouse.partials("shapes", "goes"), "shard-00000-ab.partial"), b"xyz")
    bytes_there = sum(entry.size for entry in storage.walk(warehouse.root) if "goes" in entry.name)
    report = delete(of(warehouse, "run", "goes"))
    assert (report.objects, report.bytes) == (9, bytes_there)
    extra = set(held(warehouse)) - set(before)
    assert extra <= {f"{table}{at}" for table in ("metrics", "curves", "partials") for at in ("", "/dataset=shapes")}
    assert names(warehouse) == ["stays"]


def test_deleting_twice_is_no_error_and_a_near_name_is_reported(warehouse: Warehouse) -> None:
    add_run(warehouse, "first", SCORES)
    add_run(warehouse, "second", SCORES)
    assert delete(of(warehouse, "run", "first")).objects == 6
    again = delete(of(warehouse, "run", "first"))
    assert (again.objects, again.notes) == (0, ("there is no run 'first': nothing to delete",))
    near = delete(of(warehouse, "run", "secund", "second-*"))
    assert near.notes[0] == "there is no run 'secund': nothing to delete; did you mean second?"
    assert names(warehouse) == ["second"]


def test_a_dry_run_deletes_nothing(warehouse: Warehouse) -> None:
    add_run(warehouse, "first", SCORES)
    before = held(warehouse)
    report = delete(of(warehouse, "run", "first", dry_run=True))
    assert report.dry_run
    assert report.objects == 6
    assert held(warehouse) == before


def test_old_runs_beyond_the_newest_of_each_dataset_and_model(warehouse: Warehouse) -> None:
    add_dataset(warehouse, "cells")
    for age, name in enumerate(("n0", "n1", "n2", "n3")):
        add_run(warehouse, name, SCORES)
        aged(warehouse, 10 * age, "runs", name)
    add_run(warehouse, "other-model", SCORES, model="big")
    add_run(warehouse, "other-dataset", SCORES, "cells")
    for name in ("other-model", "other-dataset"):
        aged(warehouse, 99, "runs", name)
    begin(warehouse, "unfinished", 2)
    aged(warehouse, 99, "runs", "unfinished")

    def chosen(*patterns: str, **options: object) -> list[str]:
        planned = delete(of(warehouse, "run", *patterns, dry_run=True, **options))
        return [each.name for each in planned.removed]

    assert chosen(keep=2) == ["n2", "n3"]
    assert chosen(older_than="15d") == ["n2", "n3", "other-dataset", "other-model"]
    assert chosen(older_than="15d", keep=3) == ["n3"]
    assert chosen(older_than="15d", dataset="cells") == ["other-dataset"]
    assert chosen("n*", keep=0) == ["n0", "n1", "n2", "n3"]
    assert chosen("n[01]", "unfinished") == ["n0", "n1", "unfinished"]
    delete(of(warehouse, "run", keep=1))
    assert names(warehouse) == ["n0", "other-dataset", "other-model"]


def test_a_run_that_may_be_under_way_is_refused(warehouse: Warehouse) -> None:
    record = begin(warehouse, "begun", 2)
    publish(record, 0, [1, 2], [])
    with pytest.raises(RunError, match=r"run 'begun' is unfinished and was written to 0 s ago.*--force"):
        delete(of(warehouse, "run", "begun"))
    aged(warehouse, 1, "runs")
    with pytest.raises(RunError, match="may be under way"):  # its parts are new
        delete(of(warehouse, "run", "begun"))
    for place in ("outcomes", "predictions"):
        aged(warehouse, 1, place)
    assert delete(of(warehouse, "run", "begun")).objects == 3
    begin(warehouse, "begun", 2)
    assert delete(of(warehouse, "run", "begun", force=True)).objects == 1


def test_a_run_with_a_damaged_record_can_be_deleted(warehouse: Warehouse) -> None:
    record = add_run(warehouse, "first", SCORES)
    Path(record.folder, "run.json").write_text("{")
    assert delete(of(warehouse, "run", "first")).objects == 6


@pytest.mark.parametrize("steps", range(4))
def test_a_deletion_that_was_interrupted_is_finished_by_gc_or_by_itself(warehouse: Warehouse, steps: int) -> None:
    before = held(warehouse)
    record = add_run(warehouse, "first", SCORES)
    removal.mark(removal.Removal("run", "first", "", record.folder), "delete")
    gone = [f"{record.folder}/commit.json", f"{record.folder}/run.json", record.outcome_parts()[0]]
    for uri in gone[:steps]:
        storage.delete(uri)
    with pytest.raises(RunError, match=r"run 'first' is being deleted.*'shardlens gc'"):
        begin(warehouse, "first", 2)
    if steps == 2:
        assert delete(of(warehouse, "run", "first")).objects
    else:
        Path(record.folder, "run.json").unlink(missing_ok=True)  # what the refused command wrote
        assert gc(GcConfig(warehouse=warehouse.root)).removed[0].why == "its deletion was interrupted"
    assert "first" not in " ".join(held(warehouse))
    assert set(before) <= set(held(warehouse))
    assert begin(warehouse, "first", 2).commit is None


def test_a_dataset_that_runs_refer_to_is_refused(warehouse: Warehouse) -> None:
    add_run(warehouse, "first", SCORES)
    begin(warehouse, "begun", 1)
    aged(warehouse, 1, "runs")
    with pytest.raises(DatasetError, match=r"runs refer to dataset shapes: begun, first; delete these runs with it"):
        delete(of(warehouse, "dataset", "shapes"))
    assert [dataset.name for dataset in list_datasets(warehouse)] == ["shapes"]
    left = delete(of(warehouse, "dataset", "shapes", force=True))
    assert left.notes == ("runs that refer to it stay, and cannot be scored or resumed: begun, first",)
    assert list_datasets(warehouse) == []
    assert query(warehouse.root, "SELECT count(*) AS n FROM predictions")["n"].to_pylist() == [3]


def test_a_dataset_goes_with_its_runs(warehouse: Warehouse) -> None:
    add_dataset(warehouse, "cells")
    add_run(warehouse, "first", SCORES)
    add_run(warehouse, "of-cells", SCORES, "cells")
    report = delete(of(warehouse, "dataset", "shapes", with_runs=True))
    assert [(each.kind, each.name) for each in report.removed] == [("run", "first"), ("dataset", "shapes")]
    assert names(warehouse) == ["of-cells"]
    assert not any("shapes/" in path for path in held(warehouse))


def test_a_version_is_deleted_unless_it_is_the_latest(warehouse: Warehouse) -> None:
    add_dataset(warehouse, version="v3")
    add_run(warehouse, "first", SCORES)  # of v2
    with pytest.raises(DatasetError, match=r"shapes@v3 is the latest version, which stays"):
        delete(of(warehouse, "dataset", "shapes@v3"))
    with pytest.raises(DatasetError, match=r"runs refer to dataset shapes@v2: first"):
        delete(of(warehouse, "dataset", "shapes@v2"))
    delete(of(warehouse, "dataset", "shapes@v2", force=True))
    assert Dataset.open(warehouse, "shapes").version == "v3"
    with pytest.raises(DatasetError, match="has no version 'v2': expected one of v3"):
        Dataset.open(warehouse, "shapes", "v2")


def test_a_checkpoint_that_runs_name_as_their_weights(warehouse: Warehouse) -> None:
    add_training(warehouse, "trained", [1.0, 0.5])
    add_training(warehouse, "begun", [1.0, 0.5], whole=False)
    storage.publish(storage.join(warehouse.checkpoints("begun"), "run.json"), to_json({"dataset": "shapes"}))
    done = add_run(warehouse, "first", SCORES)
    config = {"network": {"weights": warehouse.checkpoints("trained") + "/model.safetensors"}}
    document = storage.join(done.folder, "run.json")
    storage.publish(
        document, storage.read(document).replace(b'"origin": {}', b'"origin": %s' % to_json({"config": config}))
    )
    assert delete(of(warehouse, "checkpoint", "trained", dry_run=True)).notes == (
        "runs were predicted with checkpoint 'trained': first; they stay, but what is quarantined in them cannot be "
        "predicted again",
    )
    commit = storage.read(storage.join(done.folder, "commit.json"))
    storage.delete(storage.join(done.folder, "commit.json"))
    with pytest.raises(RunError, match=r"checkpoint 'trained' holds the weights of unfinished runs: first"):
        delete(of(warehouse, "checkpoint", "trained"))
    storage.publish(storage.join(done.folder, "commit.json"), commit)
    with pytest.raises(RunError, match=r"training run 'begun' is unfinished.*may be under way"):
        delete(of(warehouse, "checkpoint", "begun"))
    delete(of(warehouse, "checkpoint", "trained"))
    assert not any("trained" in path for path in held(warehouse))
    assert names(warehouse) == ["first"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "model", "names": ("a",)}, "'model' cannot be deleted: expected run, dataset, checkpoint"),
        ({"kind": "run"}, "no run named"),
        ({"kind": "run", "keep": -1}, "keep is -1"),
        ({"kind": "run", "older_than": "30"}, "older_than is '30': expected a number and s, m, h, d or w"),
        ({"kind": "dataset", "names": ("a",), "keep": 3}, "old versions of datasets are removed by 'shardlens gc'"),
        ({"kind": "run", "names": ("a",), "with_runs": True}, "--with-runs is for datasets"),
    ],
)
def test_wrong_settings_are_explained(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DeleteConfig(**options)  # type: ignore[arg-type]


def test_ages_and_sizes() -> None:
    assert [seconds(age, "x") for age in ("90s", "1.5h", "30d", "2w")] == [90, 5400, 30 * DAY, 14 * DAY]
    assert [ago(s) for s in (0, 59, 61, 7200, 9 * DAY)] == ["0 s", "59 s", "1 m", "2 h", "9 d"]
    assert [size(n) for n in (0, 999, 1000, 123_456, 99_960_000, 5_500_000_000_000)] == [
        "0 B", "999 B", "1.0 kB", "123 kB", "100 MB", "5.5 TB"
    ]  # fmt: skip
