"""What another package can add: a table that SQL sees, and a command, without a change here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.query import query
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.tables import TABLES, Table
from tests import small_warehouse as small
from tests.conftest import ROOT

SCHEMA = pa.schema([("image_id", pa.int64()), ("blur", pa.float64())])


@pytest.mark.parametrize(
    ("partitions", "place", "expected"),
    [
        (("dataset", "run"), "blurs/dataset={dataset}/run={run}/blurs.parquet", [("shapes", "a")]),
        (("dataset", "run"), "checkpoints/{run}/blurs.parquet", [("shapes", "trained")]),
        (("dataset", "version"), "datasets/{dataset}/{version}/blurs.parquet", [("shapes", "v2")]),
    ],
)
def test_a_table_is_added_by_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, partitions: tuple[str, ...], place: str, expected: list[object]
) -> None:
    warehouse = small.create(str(tmp_path))
    for version in ("v1", "v2"):
        small.add_dataset(warehouse, version=version)
    small.add_run(warehouse, "a", [[0.5], [0.4]])
    small.begin(warehouse, "open", 1)
    small.add_training(warehouse, "trained", [0.5, 0.4])
    monkeypatch.setitem(TABLES, "blurs", Table("blurs", SCHEMA, partitions, (place,)))
    assert query(str(tmp_path), "SELECT * FROM blurs").num_rows == 0
    table = tables.to_bytes(tables.from_rows([{"image_id": 1, "blur": 0.25}], SCHEMA))
    for run, version in (("a", "v2"), ("open", "v1"), ("trained", "v2")):
        storage.publish(warehouse.path(place.format(dataset="shapes", run=run, version=version)), table)
    found = query(str(tmp_path), "SELECT * FROM blurs")
    assert found.column_names == [*partitions, "image_id", "blur"]
    assert [tuple(row.values()) for row in found.to_pylist()] == [(*owner, 1, 0.25) for owner in expected]  # type: ignore[misc]


def test_a_command_is_added_by_an_entry_point(tmp_path: Path) -> None:
    about = tmp_path / "blurs-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: blurs\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[shardlens.commands]\nblurs = blurs:COMMANDS\n")
    (tmp_path / "blurs.py").write_text(
        'COMMANDS = {"blurs": ("blurs:blurs", "Measure blur.")}\n\n\n'
        'def blurs(dataset: str, *, least: float = 0.5) -> None:\n    print(f"blurs of {dataset} from {least}")\n'
    )
    paths = os.pathsep.join([str(tmp_path), str(ROOT / ".src"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", "from shardlens.pipeline.cli import main; main()"]

    def run(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": paths}
        return subprocess.run([*command, *words], env=environment, capture_output=True, text=True, check=True).stdout

    assert run("blurs", "shapes", "--least", "0.75") == "blurs of shapes from 0.75\n"
    assert "Measure blur." in run("--help")
