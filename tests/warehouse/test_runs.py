"""Runs: exclusive beginning, atomic parts, checks on resume, the commit, readers see whole runs only."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pyarrow as pa
import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.errors import RunError, StorageError
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.layout import Warehouse
from shardlens.pipeline.warehouse.runs import RunRecord
from tests import small_warehouse as small


def record(folder: Path, name: str = "r1", **settings: object) -> RunRecord:
    warehouse = Warehouse(str(folder))
    warehouse.create()
    return RunRecord(warehouse, name, "shapes", "abc123", {"model": "m", "labels": ["a"], **settings}, 2, {})


def predictions(image_ids: list[int]) -> pa.Table:
    rows = [{"image_id": i, "rank": 0, "category": "a", "kind": "box", "score": 0.5} for i in image_ids]
    return tables.from_rows(rows, tables.PREDICTIONS)


def outcomes(image_ids: list[int], bad: tuple[int, ...] = ()) -> pa.Table:
    rows = [
        {"image_id": i, "status": "quarantined" if i in bad else "ok", "predictions": int(i not in bad)}
        for i in image_ids
    ]
    return tables.from_rows(rows, tables.OUTCOMES)


def publish(
    run: RunRecord, shard: int, ids: list[int], bad: tuple[int, ...] = (), generation: int = 0
) -> runs.ShardParts:
    good = [i for i in ids if i not in bad]
    return runs.publish(run, shard, predictions(good), outcomes(ids, bad), generation)


def test_a_run_is_taken_up_by_the_same_settings(tmp_path: Path) -> None:
    first = runs.begin(record(tmp_path))
    assert runs.begin(record(tmp_path)).fingerprint == first.fingerprint


def test_another_setting_under_the_name_shows_the_difference(tmp_path: Path) -> None:
    runs.begin(record(tmp_path, batch_size=8, decode={"max_pixels": 5}))
    with pytest.raises(
        RunError, match=r"(?s)run 'r1' exists.*batch_size: 8 there, 4 here.*decode.max_pixels: 5 there, 6 here"
    ):
        runs.begin(record(tmp_path, batch_size=4, decode={"max_pixels": 6}))


def test_origin_does_not_change_the_fingerprint(tmp_path: Path) -> None:
    run = record(tmp_path)
    assert (
        RunRecord(run.warehouse, "x", run.dataset, run.dataset_version, run.settings, 2, {"a": 1}).fingerprint
        == run.fingerprint
    )


def test_publishing_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    run = runs.begin(record(tmp_path))
    first = publish(run, 0, [1, 2])
    before = {e.name: storage.read(e.uri) for e in storage.walk(str(tmp_path))}
    assert publish(run, 0, [1, 2]) == first
    assert {e.name: storage.read(e.uri) for e in storage.walk(str(tmp_path))} == before


def test_finished_shards_are_found_with_their_digests(tmp_path: Path) -> None:
    run = runs.begin(record(tmp_path))
    parts = publish(run, 1, [3, 4], bad=(4,))
    assert runs.finished(run) == {1: parts}
    assert parts.quarantined == 1


@pytest.mark.parametrize("kind", ["outcomes", "predictions"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damaged_parts_do_not_count(tmp_path: Path, kind: str, damage: str) -> None:
    run = runs.begin(record(tmp_path))
    publish(run, 0, list(range(50)))
    (path,) = (tmp_path / kind).rglob("*.parquet")
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[:-9])
    elif kind == "outcomes":
        path.write_bytes(data[:40] + bytes([data[40] ^ 255]) + data[41:])
    else:
        pytest.skip("a flipped bit of the predictions is found when their pages are read")
    assert runs.finished(run) == {}


def test_a_flipped_bit_is_found_when_a_page_is_read(tmp_path: Path) -> None:
    data = tables.to_bytes(predictions(list(range(500))))
    flipped = data[:60] + bytes([data[60] ^ 1]) + data[61:]
    with pytest.raises(StorageError, match="damaged"):
        tables.from_bytes(flipped)


def test_parts_of_another_run_do_not_count(tmp_path: Path) -> None:
    run = runs.begin(record(tmp_path))
    publish(run, 0, [1])
    other = RunRecord(run.warehouse, "r1", "shapes", "abc123", {"model": "other"}, 2, {})
    assert runs.finished(other) == {}


def test_commit_needs_every_shard(tmp_path: Path) -> None:
    run = runs.begin(record(tmp_path))
    with pytest.raises(RunError, match=r"lacks shards \[1\] of 2"):
        runs.commit(run, [publish(run, 0, [1])], {})


def test_readers_see_committed_runs_only(tmp_path: Path) -> None:
    run = runs.begin(record(tmp_path))
    assert runs.committed(run.warehouse) == []
    with pytest.raises(RunError, match="is not complete"):
        runs.open_committed(run.warehouse, "r1")
    parts = [publish(run, 0, [1, 2], bad=(2,)), publish(run, 1, [3])]
    found = runs.commit(run, parts, {"seconds": 1.0})
    assert [r.name for r in runs.committed(run.warehouse)] == ["r1"]
    assert found.parts == parts
    assert found.commit is not None
    assert found.commit.totals == runs.Totals(images=3, predictions=2, quarantined=1)
    assert [Path(uri).name for uri in found.outcome_parts()] == ["shard-00000.parquet", "shard-00001.parquet"]


def test_the_first_commit_stays(tmp_path: Path) -> None:
    run = runs.begin(record(tmp_path))
    parts = [publish(run, 0, [1]), publish(run, 1, [3])]
    runs.commit(run, parts, {"attempt": 1})
    again = runs.commit(run, parts, {"attempt": 2})
    assert again.commit is not None
    assert again.commit.report == {"attempt": 1}


def names_on_disk(run: RunRecord) -> set[str]:
    return {
        path.name for kind in ("outcomes", "predictions") for path in Path(run.warehouse.root, kind).rglob("*.parquet")
    }


def aged(run: RunRecord, name: str) -> None:
    """Let a part have been written two days ago."""
    (path,) = Path(run.warehouse.root).rglob(name)
    os.utime(path, (time.time() - 2 * 86400,) * 2)


def test_a_retry_replaces_parts_at_once_and_the_old_stay_for_a_day(tmp_path: Path) -> None:
    run = runs.begin(record(tmp_path))
    first = [publish(run, 0, [1, 2], bad=(2,)), publish(run, 1, [3])]
    run = runs.commit(run, first, {})
    better = publish(run, 0, [1, 2], generation=1)
    assert runs.finished(run) == {0: better, 1: first[1]}
    found = runs.recommit(run, [better, first[1]], {})
    assert [Path(uri).name for uri in found.outcome_parts()] == ["shard-00000.retry-1.parquet", "shard-00001.parquet"]
    slower_reader = [*run.outcome_parts(), *run.prediction_parts()]
    assert all(map(storage.exists, slower_reader))
    for part in (first[0].outcomes.name, first[0].predictions.name):
        aged(run, part)
    runs.sweep(found)
    named = {Path(uri).name for uri in found.outcome_parts() + found.prediction_parts()}
    assert names_on_disk(run) == named


def test_a_retry_under_way_keeps_its_parts_however_old(tmp_path: Path) -> None:
    run = runs.begin(record(tmp_path))
    first = [publish(run, 0, [1, 2], bad=(2,)), publish(run, 1, [3])]
    run = runs.commit(run, first, {})
    better = publish(run, 0, [1, 2], generation=1)
    aged(run, better.outcomes.name)
    aged(run, better.predictions.name)
    runs.commit(run, first, {})  # a late command of the first prediction
    done = runs.recommit(run, [better, first[1]], {})
    assert runs.present(done) == {0: better, 1: first[1]}
    late = runs.recommit(run, first, {})  # and one that still has the first parts in its hands
    assert late.parts == [better, first[1]]


@pytest.mark.parametrize("kind", ["outcomes", "predictions"])
def test_a_commit_names_no_part_that_is_gone(tmp_path: Path, kind: str) -> None:
    run = runs.begin(record(tmp_path))
    parts = [publish(run, 0, [1]), publish(run, 1, [3])]
    committed = runs.commit(run, parts, {})
    better = publish(run, 1, [3, 4], generation=1)
    (lost,) = Path(tmp_path, kind).rglob(getattr(better, kind).name)
    lost.unlink()
    with pytest.raises(RunError, match=r"parts of shards \[1\] were published and are gone"):
        runs.recommit(run, [parts[0], better], {})
    assert runs.find(run.warehouse, "r1").parts == committed.parts


def test_scores_go_only_where_rows_change(tmp_path: Path) -> None:
    run = runs.begin(record(tmp_path))
    parts = [publish(run, 0, [1], bad=(1,)), publish(run, 1, [3])]
    run = runs.commit(run, parts, {"seconds": 5.0})
    score = storage.join(run.warehouse.metrics("shapes", "r1"), "metrics.parquet")
    storage.publish(score, b"")
    same = runs.recommit(run, parts, {"seconds": 0.0})
    assert same.commit is not None
    assert same.commit.report == {"seconds": 5.0}
    runs.recommit(run, [publish(run, 0, [1], bad=(1,), generation=1), parts[1]], {})
    assert storage.exists(score)
    runs.recommit(run, [publish(run, 0, [1], generation=2), parts[1]], {})
    assert not storage.exists(score)


def test_an_interrupted_retry_goes_on_under_its_generation(tmp_path: Path) -> None:
    run = runs.begin(record(tmp_path))
    first = [publish(run, 0, [1, 2], bad=(2,)), publish(run, 1, [3], bad=(3,))]
    run = runs.commit(run, first, {})
    assert runs.to_retry(dict(enumerate(first)), run.parts) == (1, [0, 1])
    publish(run, 0, [1, 2], bad=(2,), generation=1)
    assert runs.to_retry(runs.finished(run), run.parts) == (1, [1])
    publish(run, 1, [3], bad=(3,), generation=1)
    assert runs.to_retry(runs.finished(run), run.parts) == (1, [])  # all that is missing is the commit
    run = runs.recommit(run, runs.finished(run).values(), {})
    assert runs.to_retry(runs.finished(run), run.parts) == (2, [0, 1])


def test_what_a_dead_process_left_is_removed_at_the_commit(tmp_path: Path) -> None:
    run = runs.begin(record(tmp_path))
    parts = [publish(run, 0, [1]), publish(run, 1, [3])]
    for folder in (run.folder, *(Path(uri).parent for uri in Path(tmp_path).rglob("shard-00000*"))):
        Path(folder, ".publishing-abc").write_bytes(b"half")
    runs.commit(run, parts, {})
    assert not list(tmp_path.rglob(".publishing-*"))


DOCUMENTS = ["run.json", "commit.json"]


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize(
    "text", ["[]", "null", "3", '"x"', "{}", "true", '{"parts": {}}', '{"settings": []}', "[" * 9999]
)
def test_a_document_of_another_type_is_explained(tmp_path: Path, name: str, text: str) -> None:
    run = runs.begin(record(tmp_path))
    runs.commit(run, [publish(run, 0, [1]), publish(run, 1, [3])], {})
    Path(run.folder, name).write_text(text)
    for look in (runs.committed, lambda warehouse: runs.find(warehouse, "r1")):
        with pytest.raises(StorageError, match=rf"r1/{name}.*(expected|has no field|is not JSON).*restore it"):
            look(run.warehouse)


def test_a_commit_without_a_shard_is_damaged(tmp_path: Path) -> None:
    run = runs.begin(record(tmp_path))
    runs.commit(run, [publish(run, 0, [1]), publish(run, 1, [3])], {})
    mark = Path(run.folder, "commit.json")
    document = json.loads(mark.read_text())
    for parts in ([], document["parts"][1:], document["parts"][::-1]):
        mark.write_text(json.dumps({**document, "parts": parts}))
        with pytest.raises(
            StorageError, match=rf"r1/commit.json names the parts of {len(parts)} shards, expected.* of 2"
        ):
            runs.find(run.warehouse, "r1")


def test_half_of_a_surrogate_pair_is_no_text(tmp_path: Path) -> None:
    run = runs.begin(record(tmp_path))
    document = Path(run.folder, "run.json")
    text = document.read_text()
    document.write_text(text.replace('"m"', r'"\ud83d\ude00"'))
    assert runs.find(run.warehouse, "r1").settings["model"] == "😀"
    document.write_text(text.replace('"m"', r'"\uD83D"'))
    with pytest.raises(StorageError, match=r"run.json is not JSON.*surrogates not allowed"):
        runs.find(run.warehouse, "r1")


def test_a_commit_of_before_the_checksums_is_read(tmp_path: Path) -> None:
    run = runs.begin(record(tmp_path))
    committed = runs.commit(run, [publish(run, 0, [1]), publish(run, 1, [3])], {})
    mark = Path(run.folder, "commit.json")
    document = json.loads(mark.read_text())
    for part in (shard[kind] for shard in document["parts"] for kind in ("predictions", "outcomes")):
        del part["blocks"]
    mark.write_text(json.dumps(document))
    again = runs.find(run.warehouse, "r1")
    assert [p.predictions.sha256 for p in again.parts] == [p.predictions.sha256 for p in committed.parts]
    assert runs.present(again).keys() == {0, 1}


def test_who_publishes_second_takes_what_is_there(tmp_path: Path) -> None:
    run = runs.begin(record(tmp_path))
    first = [publish(run, 0, [1, 2], bad=(2,)), publish(run, 1, [3])]
    committed = runs.commit(run, first, {})
    before = {uri: storage.read(uri) for uri in committed.prediction_parts() + committed.outcome_parts()}
    assert publish(run, 0, [1, 2]) == first[0]  # a slower worker saw image 2 well
    assert {uri: storage.read(uri) for uri in before} == before


def test_a_commit_counts_the_parts_that_it_names(tmp_path: Path) -> None:
    run = runs.begin(record(tmp_path))
    committed = runs.commit(run, [publish(run, 0, [1]), publish(run, 1, [3])], {})
    assert set(runs.present(committed)) == {0, 1}
    storage.delete(committed.prediction_parts()[1])
    assert set(runs.present(committed)) == {0}


def test_an_unknown_run_lists_the_nearest(tmp_path: Path) -> None:
    run = runs.begin(record(tmp_path, "yolo-first"))
    with pytest.raises(RunError, match=r"no run 'yolo-frist'.*did you mean yolo-first"):
        runs.find(run.warehouse, "yolo-frist")


def test_a_damaged_record_is_reported(tmp_path: Path) -> None:
    run = runs.begin(record(tmp_path))
    Path(run.folder, "run.json").write_text("{")
    with pytest.raises(StorageError, match=r"run.json is not JSON"):
        runs.find(run.warehouse, "r1")


def test_the_record_is_readable_by_people(tmp_path: Path) -> None:
    run = runs.begin(record(tmp_path))
    document = json.loads(Path(run.folder, "run.json").read_text())
    assert document["fingerprint"] == run.fingerprint
    assert document["settings"]["model"] == "m"


def test_a_place_that_is_no_warehouse_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(StorageError, match=r"not a warehouse and is not empty \(it holds holiday.jpg\)"):
        Warehouse(str(tmp_path)).create()
    with pytest.raises(StorageError, match=r"no warehouse.json there"):
        Warehouse(str(tmp_path)).check()


def test_a_column_whose_name_is_no_text_is_damage() -> None:
    data = tables.to_bytes(tables.from_rows([small.row(1, 0, 0.5)], tables.PREDICTIONS))
    with pytest.raises(StorageError, match=r"is damaged .*can't decode byte 0xc0"):
        tables.from_bytes(data.replace(b"category", b"\xc0ategory"))
