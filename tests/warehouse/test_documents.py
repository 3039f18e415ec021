"""Documents of a warehouse whose fields have another JSON type or value than they should."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from shardlens.pipeline import query
from shardlens.pipeline.errors import ShardlensError, StorageError
from shardlens.pipeline.ingest import sources
from shardlens.pipeline.warehouse import datasets, runs
from shardlens.pipeline.warehouse.layout import Warehouse
from tests import small_warehouse as small

TEXT, NUMBER, OBJECT, LIST, FLAG, ODD = "a", 5, {"a": 1}, [1, [2]], True, None
SOURCE = {
    "asked": {"name": "shapes", "images": "i", "split": None},
    "gave": [None],
    "splits": [None],
    "images": "i",
    "annotations": None,
    "has_ids": True,
    "has_category_ids": True,
}
COMMIT: list[tuple[Sequence[Any], Sequence[Any]]] = [
    (["parts"], [TEXT, NUMBER, OBJECT, LIST, FLAG, ODD, [[]], [ODD], [TEXT]]),
    (["parts", 0], [TEXT, NUMBER, OBJECT, LIST, FLAG, ODD, {}]),
    (["parts", 0, "shard"], [TEXT, OBJECT, LIST, FLAG, ODD, 0.5, -1, 1 << 63, 10**30]),
    (["parts", 0, "quarantined"], [TEXT, OBJECT, LIST, FLAG, ODD, -1]),
    (["parts", 0, "predictions"], [TEXT, NUMBER, OBJECT, LIST, FLAG, ODD]),
    (["parts", 0, "outcomes"], [TEXT, NUMBER, OBJECT, LIST, FLAG, ODD]),
    (["parts", 0, "outcomes", "name"], [NUMBER, OBJECT, LIST, ODD, "", "../x", "/etc/passwd", "a\0b", "\ud800", "a" * 999]),
    (["parts", 0, "outcomes", "rows"], [TEXT, OBJECT, LIST, ODD, 1e308, 1 << 63]),
    (["parts", 0, "outcomes", "bytes"], [TEXT, OBJECT, LIST, ODD, FLAG, -5]),
    (["parts", 0, "outcomes", "sha256"], [NUMBER, OBJECT, LIST, ODD]),
    (["parts", 0, "outcomes", "blocks"], [NUMBER, OBJECT, LIST, ODD]),
    (["totals"], [TEXT, NUMBER, LIST, FLAG, ODD, {"images": TEXT}, {"images": 10**30}]),
    (["fingerprint"], [NUMBER, OBJECT, LIST, ODD]),
    (["report"], [TEXT, NUMBER, LIST, FLAG, ODD, {"seconds": TEXT}, {"seconds": LIST}]),
]  # fmt: skip
RUN: list[tuple[Sequence[Any], Sequence[Any]]] = [
    (["dataset"], [NUMBER, OBJECT, LIST, ODD, "", "../x", "a/b"]),
    (["dataset_version"], [NUMBER, OBJECT, LIST, ODD]),
    (["settings"], [TEXT, NUMBER, LIST, FLAG, ODD]),
    (["settings", "model"], [NUMBER, OBJECT, LIST, FLAG]),
    (["settings", "task"], [NUMBER, OBJECT, LIST, FLAG]),
    (["settings", "labels"], [TEXT, NUMBER, OBJECT, LIST, FLAG, ODD]),
    (["shards"], [TEXT, OBJECT, LIST, FLAG, ODD, -1, 2.5]),
    (["origin"], [TEXT, NUMBER, LIST, FLAG, ODD]),
]
DATASET: list[tuple[Sequence[Any], Sequence[Any]]] = [
    ([], [TEXT, NUMBER, LIST, FLAG, ODD, {}]),
    (["images"], [TEXT, OBJECT, LIST, FLAG, ODD, -1]),
    (["annotations"], [TEXT, OBJECT, LIST, FLAG, ODD]),
    (["splits"], [TEXT, NUMBER, OBJECT, LIST, FLAG, ODD, [{}], [{"split": 3, "images": 1}]]),
    (["sources"], [TEXT, NUMBER, OBJECT, LIST, FLAG, ODD, [{}]]),
    (["sources", 0, "asked"], [TEXT, NUMBER, LIST, FLAG, ODD]),
    (["sources", 0, "gave"], [TEXT, NUMBER, OBJECT, LIST, FLAG, ODD]),
    (["sources", 0, "splits"], [TEXT, NUMBER, OBJECT, LIST, FLAG, ODD]),
    (["sources", 0, "images"], [NUMBER, OBJECT, LIST, FLAG]),
    (["sources", 0, "has_ids"], [TEXT, NUMBER, OBJECT, LIST, ODD]),
]
LATEST: list[tuple[Sequence[Any], Sequence[Any]]] = [
    ([], [TEXT, NUMBER, LIST, FLAG, ODD, {}]),
    (["version"], [NUMBER, OBJECT, LIST, FLAG, ODD, "", "../v2", "a/b", "\0"]),
]


def cases(rows: Sequence[tuple[Sequence[Any], Sequence[Any]]]) -> list[Any]:
    return [pytest.param(at, value, id=f"{at}={value!a:.30}") for at, values in rows for value in values]


def changed(document: Any, at: Sequence[Any], value: Any) -> Any:
    """The document with another value at a path of keys and indices."""
    if not at:
        return value
    made = list(document) if isinstance(document, list) else dict(document)
    made[at[0]] = changed(made[at[0]], at[1:], value)
    return made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    warehouse = small.create(str(tmp_path_factory.mktemp("documents") / "w"))
    small.add_dataset(warehouse)
    small.add_run(warehouse, "a", [[0.5], [0.4]])
    file = Path(warehouse.dataset("shapes", "v2"), "dataset.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "sources": [SOURCE]}))
    return warehouse


def expect(uri: str, at: Sequence[Any], value: Any, look: Sequence[Callable[[], object]]) -> None:
    """Each way to read the document ends in one sentence that names the file, what it holds and what to do."""
    file = Path(uri)
    before = file.read_text()
    file.write_text(json.dumps(changed(json.loads(before), at, value)))
    try:
        for each in look:
            with pytest.raises(StorageError) as raised:
                each()
            text = str(raised.value)
            assert uri in text
            assert any(words in text for words in ("expected", "has no field", "is not JSON"))
            assert "restore it" in text
    finally:
        file.write_text(before)


def readers(place: Warehouse) -> list[Callable[[], object]]:
    return [lambda: runs.find(place, "a"), lambda: runs.committed(place), lambda: query_all(place)]


def query_all(place: Warehouse) -> None:
    query.query(place.root, "SELECT * FROM runs")


@pytest.mark.parametrize(("at", "value"), cases(COMMIT))
def test_a_commit_with_a_wrong_field_is_explained(place: Warehouse, at: Sequence[Any], value: Any) -> None:
    expect(f"{place.run('a')}/commit.json", at, value, readers(place)[:2])


@pytest.mark.parametrize(("at", "value"), cases(RUN))
def test_a_run_with_a_wrong_field_is_explained(place: Warehouse, at: Sequence[Any], value: Any) -> None:
    expect(f"{place.run('a')}/run.json", at, value, readers(place)[:2])


@pytest.mark.parametrize(("at", "value"), cases(DATASET))
def test_a_dataset_with_a_wrong_field_is_explained(place: Warehouse, at: Sequence[Any], value: Any) -> None:
    look = [lambda: datasets.list_datasets(place), lambda: sources(place.root, "shapes")]
    expect(f"{place.dataset('shapes', 'v2')}/dataset.json", at, value, look)


@pytest.mark.parametrize(("at", "value"), cases(LATEST))
def test_a_pointer_with_a_wrong_field_is_explained(place: Warehouse, at: Sequence[Any], value: Any) -> None:
    expect(f"{place.dataset('shapes')}/latest.json", at, value, [lambda: datasets.list_datasets(place)])


@pytest.mark.parametrize(
    ("document", "at", "value"), [("commit", ["report"], {"seconds": "x"}), ("run", ["shards"], [])]
)
def test_a_query_explains_a_wrong_field(place: Warehouse, document: str, at: Sequence[Any], value: Any) -> None:
    expect(f"{place.run('a')}/{document}.json", at, value, readers(place)[2:])


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 5, 10**30, None])
def test_odd_numbers_of_a_report_are_read(place: Warehouse, seconds: object) -> None:
    file = Path(place.run("a"), "commit.json")
    before = file.read_text()
    file.write_text(json.dumps(changed(json.loads(before), ["report"], {"seconds": seconds})))
    try:
        query_all(place)
    finally:
        file.write_text(before)


def test_settings_of_a_newer_version_are_named(place: Warehouse) -> None:
    file = Path(place.dataset("shapes", "v2"), "dataset.json")
    before = file.read_text()
    file.write_text(json.dumps(changed(json.loads(before), ["sources", 0, "asked"], {"name": "shapes", "shiny": 1})))
    try:
        with pytest.raises(ShardlensError, match=r"dataset shapes .*settings shiny.*update Shardlens"):
            sources(place.root, "shapes")
    finally:
        file.write_text(before)
