from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError, QueryError, StorageError
from shardlens.pipeline.query import _open, connect, query
from shardlens.pipeline.sql.committed_files import CommittedFiles, File
from shardlens.pipeline.sql.views import snapshot
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.layout import Warehouse
from shardlens.pipeline.warehouse.runs import RunRecord
from tests import small_warehouse as small
from tests.conftest import ROOT, Bucket


def fill(root: str) -> str:
    """Two committed runs, and the traces of what is not committed: a run, a part beside, an old dataset version."""
    warehouse = small.create(root)
    small.add_dataset(warehouse, images=4, version="v1")
    small.add_dataset(warehouse, images=6, version="v2")
    first = small.add_run(warehouse, "first", [[0.9, 0.8], [], [0.7], [0.6], [0.5, 0.4, 0.3], []])
    small.add_run(warehouse, "second", [[0.99]] * 4, model="large")
    small.publish(first, 7, [1], [small.row(1, 0, 0.01)])
    small.publish(small.begin(warehouse, "open", 2), 0, [1, 2], [small.row(1, 0, 0.02)])
    for run, value in (("first", 0.25), ("open", 0.99)):
        small.add_metrics(warehouse, run, value)
    return root


@pytest.fixture(scope="module")
def wh(tmp_path_factory: pytest.TempPathFactory) -> str:
    return fill(str(tmp_path_factory.mktemp("query") / "wh"))


def rows(warehouse: str, sql: str) -> list[tuple[object, ...]]:
    return list(zip(*query(warehouse, sql).to_pydict().values(), strict=True))


def test_predictions_of_committed_runs_and_nothing_else(wh: str) -> None:
    found = rows(wh, "SELECT run, dataset, count(*), min(score) FROM predictions GROUP BY ALL ORDER BY run")
    assert found == [("first", "shapes", 7, 0.3), ("second", "shapes", 4, 0.99)]
    assert rows(wh, "SELECT run, count(*), sum(predictions) FROM outcomes GROUP BY run ORDER BY run") == [
        ("first", 6, 7),
        ("second", 4, 4),
    ]


def test_the_slow_libraries_are_not_imported(wh: str) -> None:
    said = f"import sys; from shardlens.pipeline.query import query; query({wh!r}, 'FROM runs'); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", said], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"'pandas'", "'torch'", "'ray'", "'pyarrow.compute'"} & set(re.split(r"[\[\], ]+", done.stdout))


def test_metrics_and_curves_of_committed_runs(wh: str) -> None:
    assert rows(wh, "SELECT run, metric, value FROM metrics") == [("first", "AP", 0.25)]
    assert rows(wh, "SELECT run, precision FROM curves WHERE dataset = 'shapes'") == [("first", 1.0)]


def test_steps_and_validations_of_complete_training_runs(tmp_path: Path) -> None:
    warehouse = fill(str(tmp_path))
    small.add_training(Warehouse(warehouse), "detector", [4.0, 3.0, 2.0, 1.0])
    small.add_training(Warehouse(warehouse), "first", [9.0, 9.0])  # the name of a run of predictions too
    small.add_training(Warehouse(warehouse), "under-way", [4.0, 3.0], whole=False)
    sql = (
        "SELECT run, epoch, avg(loss), sum(wait_seconds) / sum(seconds) FROM training WHERE run <> 'first' GROUP BY ALL"
    )
    assert rows(warehouse, f"{sql} ORDER BY epoch") == [("detector", 1, 3.5, 0.25), ("detector", 2, 1.5, 0.25)]
    parts = "SELECT parts['box'], learning_rates['backbone'] FROM training WHERE step = 3"
    assert rows(warehouse, parts) == [(2.0, 0.01)]
    curve = "SELECT epoch, step, value FROM metrics WHERE run = 'detector' AND metric = 'AP50' ORDER BY epoch"
    assert rows(warehouse, curve) == [(1, 2, 0.1), (2, 4, 0.2)]
    both = "SELECT metric, value, epoch FROM metrics WHERE run = 'first' ORDER BY metric"
    assert rows(warehouse, both) == [("AP", 0.25, None), ("AP50", 0.1, 1)]


def test_metrics_without_the_newer_columns_are_still_read(tmp_path: Path) -> None:
    warehouse = Warehouse(fill(str(tmp_path)))
    uri = f"{warehouse.metrics('shapes', 'first')}/metrics.parquet"
    older = tables.from_bytes(storage.read(uri)).drop_columns(["epoch", "step"])
    storage.publish(uri, tables.to_bytes(older))
    assert rows(warehouse.root, "SELECT run, value, epoch FROM metrics") == [("first", 0.25, None)]


def test_datasets_show_their_latest_version(wh: str) -> None:
    found = rows(wh, "SELECT dataset, version, count(*) FROM images GROUP BY ALL")
    assert found == [("shapes", "v2", 6)]
    assert rows(wh, "SELECT count(*) FROM annotations JOIN categories USING (dataset, category_id)") == [(6,)]


def test_runs_have_a_row_each_with_their_settings(wh: str) -> None:
    found = rows(wh, "SELECT run, model, task, images, predictions, quarantined, parts, seconds FROM runs ORDER BY run")
    assert found[0] == ("first", "tiny", "detection", 6, 7, 0, 3, 1.5)
    assert rows(wh, "SELECT settings ->> 'model' FROM runs WHERE run = 'second'") == [("large",)]


def test_a_retry_replaces_its_parts_for_the_next_query(tmp_path: Path) -> None:
    warehouse = small.create(str(tmp_path))
    record = small.add_run(warehouse, "a", [[0.5], [0.4], [0.3]])
    assert rows(str(tmp_path), "SELECT sum(score) FROM predictions") == [(pytest.approx(1.2),)]
    again = small.publish(record, 1, [3], [small.row(3, 0, 0.9)], generation=1)
    runs.recommit(record, [record.parts[0], again], {})
    assert rows(str(tmp_path), "SELECT score FROM predictions WHERE image_id = 3") == [(0.9,)]


def test_an_empty_warehouse_has_every_view_without_rows(tmp_path: Path) -> None:
    small.create(str(tmp_path))
    with connect(str(tmp_path)) as connection:
        for view, schema in (
            ("predictions", tables.PREDICTIONS),
            ("images", tables.IMAGES),
            ("metrics", tables.METRICS),
        ):
            answer = connection.sql(f"SELECT * FROM {view}")
            assert set(schema.names) < set(answer.columns) | {""}
            assert answer.fetchall() == []
        assert connection.sql("SELECT * FROM predictions").columns[:4] == [
            "dataset",
            "run",
            "dataset_version",
            "image_id",
        ]
        assert connection.sql("SELECT count(*) FROM runs").fetchall() == [(0,)]


def test_a_place_that_is_no_warehouse_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"is not a warehouse .*shardlens ingest"):
        query(str(tmp_path), "SELECT 1")


@pytest.mark.s3
def test_in_a_bucket_on_two_requests_a_part(s3: Bucket) -> None:
    root = fill(f"{s3.uri}/wh")
    assert rows(root, "SELECT run, count(*) FROM predictions GROUP BY run ORDER BY run") == [
        ("first", 7),
        ("second", 4),
    ]
    files = CountingFiles(snapshot(Warehouse(root)))
    with _open(files) as connection:
        assert connection.sql("SELECT max(score) FROM predictions WHERE run = 'second'").fetchall() == [(0.99,)]
    assert files.requests <= 4


def test_in_memory() -> None:
    root = fill("memory://query-test/wh")
    assert rows(root, "SELECT count(*), sum(score) FROM predictions WHERE run = 'second'") == [(4, pytest.approx(3.96))]
    assert rows(root, "SELECT metric FROM metrics WHERE run = 'first'") == [("AP",)]


def test_a_part_that_is_gone_is_named(tmp_path: Path) -> None:
    root = fill(str(tmp_path))
    next(Path(root, "predictions/dataset=shapes/run=second").iterdir()).unlink()
    with pytest.raises(StorageError, match=r"run=second/shard-0000\d-\w+.parquet is gone: its run was deleted"):
        query(root, "SELECT sum(score) FROM predictions")


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT * FROM prediction", r'Did you mean "predictions"\?\s+the views are images, annotations'),
        ("SELECT scores FROM predictions", r'"scores" not found.*\s.*Candidate bindings: .*"score"'),
        ("SELEC 1", r'syntax error at or near "SELEC"'),
        ("SELECT FROM", "syntax error"),
        ("SELECT 'a'::INTEGER", "Could not convert string 'a' to INT32"),
        ("", "holds 0 statements"),
        ("SELECT 1; SELECT 2", "holds 2 statements: expected one"),
        ("DROP VIEW runs", "'DROP VIEW runs' does more than read: expected SELECT"),
        ("INSERT INTO runs SELECT * FROM runs", "does more than read"),
        ("CREATE TABLE t (a INT)", "does more than read"),
        ("WITH t AS (DELETE FROM runs RETURNING *) FROM t", "Can only delete from base table"),
    ],
)
def test_wrong_sql_is_explained(wh: str, sql: str, said: str) -> None:
    with pytest.raises(QueryError, match=said) as wrong:
        query(wh, sql)
    assert "Traceback" not in str(wrong.value)


@pytest.mark.parametrize(
    "sql",
    [
        "FROM runs",
        "VALUES (1)",
        "DESCRIBE predictions",
        "SHOW TABLES",
        "SUMMARIZE outcomes",
        "EXPLAIN SELECT * FROM runs",
        "EXPLAIN ANALYZE SELECT * FROM runs",
        "PIVOT predictions ON run USING count(*)",
        "WITH best AS (SELECT max(score) FROM predictions) FROM best; -- the end",
    ],
)
def test_every_way_to_read_is_allowed(wh: str, sql: str) -> None:
    assert query(wh, sql).num_rows > 0


def test_a_connection_keeps_what_it_saw(tmp_path: Path) -> None:
    warehouse = small.create(str(tmp_path))
    small.add_run(warehouse, "first", [[0.5]])
    small.add_metrics(warehouse, "first", 0.25)
    with connect(str(tmp_path)) as connection:
        assert connection.sql("SELECT value FROM metrics").fetchall() == [(0.25,)]
        small.add_metrics(warehouse, "first", 0.75)
        assert connection.sql("SELECT value FROM metrics").fetchall() == [(0.25,)]
    assert rows(str(tmp_path), "SELECT value FROM metrics") == [(0.75,)]


@pytest.mark.parametrize(
    ("where", "read"),
    [
        ("run = 'second'", 2),
        ("run IN ('first', 'nothing')", 3),
        ("dataset = 'other'", 0),
        ("run IN (SELECT run FROM runs WHERE model = 'large')", 2),
        ("image_id > 0", 5),
    ],
)
def test_other_partitions_are_not_opened(wh: str, where: str, read: int) -> None:
    files = CommittedFiles(snapshot(Warehouse(wh)))
    with _open(files) as connection:
        connection.sql(f"SELECT sum(score) FROM predictions WHERE {where}").fetchall()
    assert len([path for path in files.opened if path.startswith("predictions/dataset=shapes")]) == read


def test_a_damaged_run_does_not_disturb_another(tmp_path: Path) -> None:
    root = fill(str(tmp_path))
    for part in Path(root, "predictions/dataset=shapes/run=first").iterdir():
        part.write_bytes(b"damaged")
    assert rows(root, "SELECT count(*) FROM predictions WHERE run = 'second'") == [(4,)]
    with pytest.raises(StorageError, match=r"run=first/shard-0000\d-\w+.parquet is damaged \(\d+ bytes at"):
        query(root, "SELECT sum(score) FROM predictions")


def checked_rows(root: str, sql: str) -> object:
    """The answer, or the words that say that a file is damaged."""
    try:
        return query(root, sql).to_pylist()
    except StorageError as error:
        return re.search("damaged|not found", str(error))[0]


@pytest.mark.parametrize("checks", ["blocks", "digest"])
def test_no_flipped_bit_gives_other_rows(tmp_path: Path, checks: str) -> None:
    warehouse = small.create(str(tmp_path))
    record = small.add_run(warehouse, "first", [[0.9, 0.8], [0.7]])
    if checks == "digest":  # a commit of an earlier version
        mark = Path(record.folder, "commit.json")
        mark.write_text(re.sub(r'"blocks": "\w*"', '"blocks": ""', mark.read_text()))
    sql = "SELECT * FROM predictions ORDER BY score"
    before = checked_rows(str(tmp_path), sql)
    part = Path(record.prediction_parts()[0])
    data = part.read_bytes()
    for place in range(0, len(data), len(data) // 60):
        part.write_bytes(data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :])
        assert checked_rows(str(tmp_path), sql) == "damaged"
    part.write_bytes(data)
    assert checked_rows(str(tmp_path), sql) == before


def test_a_flipped_bit_is_found_in_the_block_that_is_read(tmp_path: Path) -> None:
    warehouse = small.create(str(tmp_path))
    record = small.begin(warehouse, "wide", 1)
    noise = np.random.default_rng(0).random(100_000)
    table = tables.from_rows([small.row(1, 0, 0.5)], tables.PREDICTIONS).take(np.zeros(len(noise), np.int64))
    table = table.set_column(table.schema.get_field_index("score"), tables.PREDICTIONS.field("score"), pa.array(noise))
    outcomes = tables.from_rows([{"image_id": 1, "status": "ok", "predictions": 1}], tables.OUTCOMES)
    committed = runs.commit(record, [runs.publish(record, 0, table, outcomes)], {})
    part = Path(committed.prediction_parts()[0])
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 4
    part.write_bytes(data)
    assert checked_rows(str(tmp_path), "SELECT sum(score) FROM predictions") == "damaged"
    assert query(str(tmp_path), "SELECT sum(rank) AS s FROM predictions").to_pylist() == [{"s": 0}]


def test_only_the_columns_and_row_groups_asked_for_are_read(tmp_path: Path) -> None:
    warehouse = small.create(str(tmp_path))
    record = small.begin(warehouse, "wide", 1)
    names = np.random.default_rng(0).integers(0, 1 << 60, 300_000).astype(str)
    table = tables.from_rows([small.row(1, 0, 0.5)], tables.PREDICTIONS).take(np.zeros(len(names), np.int64))
    for name, values in (("image_id", np.arange(len(names))), ("category", names)):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, tables.PREDICTIONS.field(name), pa.array(values))
    outcomes = tables.from_rows([{"image_id": 1, "status": "ok", "predictions": 1}], tables.OUTCOMES)
    committed = runs.commit(record, [runs.publish(record, 0, table, outcomes)], {})
    all_names = spent(committed, "SELECT max(category) FROM predictions")
    assert (
        spent(committed, "SELECT max(category) FROM predictions WHERE image_id = 5") < all_names * 0.6
    )  # 1 of 3 row groups
    assert spent(committed, "SELECT sum(area) FROM predictions") < all_names / 10


def spent(record: RunRecord, sql: str) -> int:
    """Bytes of parts that a query read."""
    files = CountingFiles(snapshot(record.warehouse))
    with _open(files) as connection:
        connection.sql(sql).fetchall()
    return files.read_bytes


class CountingFiles(CommittedFiles):
    read_bytes = 0
    requests = 0

    def read(self, file: File, offset: int, length: int) -> bytes:
        self.read_bytes += length
        self.requests += 1
        return super().read(file, offset, length)


ENDLESS = "SELECT count(*) FROM range(100000000) a, range(10000) b WHERE a.range * b.range % 7 = 1"


def test_a_query_stops_after_its_time(wh: str) -> None:
    with pytest.raises(QueryError, match=r"stopped after 0.5 s: .*raise --timeout"):
        query(wh, ENDLESS, timeout=0.5)
    assert query(wh, "SELECT 1 AS one", timeout=60).num_rows == 1


def test_a_query_keeps_to_its_memory(wh: str) -> None:
    with pytest.raises(QueryError, match=r"more memory than it may use \(100MB\)"):
        query(wh, "SELECT list(range) FROM range(1000000000)", memory_limit="100MB")


@pytest.mark.parametrize("limit", ["-1", "0", "x", "1", "", "0%", "500%", "5 bananas"])
def test_a_limit_that_is_none_is_explained(wh: str, limit: str) -> None:
    with pytest.raises(ConfigError, match="expected a size such as 2GB"):
        query(wh, "SELECT 1", memory_limit=limit)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_time_that_is_none_is_explained(wh: str, timeout: float) -> None:
    with pytest.raises(ConfigError, match="expected seconds, more than 0"):
        query(wh, "SELECT 1", timeout=timeout)
