from __future__ import annotations

from pathlib import Path

import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.errors import StorageError
from shardlens.pipeline.sql.views import snapshot
from shardlens.pipeline.warehouse import tables
from tests import small_warehouse as small


def test_a_snapshot_lists_the_committed_parts_with_their_sizes(tmp_path: Path) -> None:
    warehouse = small.create(str(tmp_path))
    record = small.add_run(warehouse, "first", [[0.5], [], [0.4]])
    small.publish(record, 9, [1], [])
    small.publish(small.begin(warehouse, "open", 1), 0, [1], [])
    found = {path: file for path, file in snapshot(warehouse).items() if file.uri}
    place = "dataset=shapes/run=first/dataset_version=v2"
    names = [f"predictions/{place}/{part.predictions.name}" for part in record.parts]
    assert sorted(found) == sorted([*names, *(f"outcomes/{place}/{part.outcomes.name}" for part in record.parts)])
    assert all(file.size == storage.size(file.uri) for file in found.values())


def test_every_view_has_a_first_file_with_its_columns(tmp_path: Path) -> None:
    files = snapshot(small.create(str(tmp_path)))
    for name, view in tables.TABLES.items():
        first = next(path for path in files if path.startswith(f"{name}/"))
        assert tables.from_bytes(files[first].data or b"").schema.equals(view.schema)
        assert first.count("=") == len(view.partitions)


def test_metric_tables_may_change_and_have_no_size(tmp_path: Path) -> None:
    warehouse = small.create(str(tmp_path))
    small.add_run(warehouse, "first", [[0.5]])
    small.add_metrics(warehouse, "first", 0.5)
    small.add_metrics(warehouse, "open", 0.5)
    found = {path: file for path, file in snapshot(warehouse).items() if path.startswith("metrics/") and file.uri}
    assert list(found) == ["metrics/dataset=shapes/run=first/dataset_version=v2/metrics.parquet"]
    assert next(iter(found.values())).size is None


def test_only_the_latest_version_of_a_dataset_is_listed(tmp_path: Path) -> None:
    warehouse = small.create(str(tmp_path))
    for version in ("v1", "v2"):
        small.add_dataset(warehouse, version=version)
    storage.publish(warehouse.path("datasets", "broken", "v1", "images.parquet"), b"no latest.json beside it")
    found = [path for path, file in snapshot(warehouse).items() if file.uri]
    assert found == [
        f"{view}/dataset=shapes/version=v2/dataset_version=v2/{view}.parquet"
        for view in ("images", "annotations", "categories")
    ]


def test_a_damaged_commit_is_named(tmp_path: Path) -> None:
    warehouse = small.create(str(tmp_path))
    record = small.add_run(warehouse, "first", [[0.5]])
    storage.publish(storage.join(record.folder, "commit.json"), b'{"parts": [')
    with pytest.raises(StorageError, match=r"runs/first/commit.json is not JSON"):
        snapshot(warehouse)
