"""Ways out of the query connection, each tried on the connection itself and through `query`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from shardlens.pipeline.errors import QueryError, StorageError
from shardlens.pipeline.query import connect, query
from tests import small_warehouse as small

SECRET = "a line that no query may see"

WRITING = [
    "COPY runs TO '{new}'",
    "COPY runs TO '{new}' (USE_TMP_FILE false)",
    "COPY runs TO '{part}' (USE_TMP_FILE false)",
    "COPY runs TO 'warehouse://{listed}' (FORMAT parquet, USE_TMP_FILE false)",
    "COPY runs TO 'warehouse://predictions/more.parquet'",
    "COPY runs TO '{new}' (FORMAT parquet, PARTITION_BY (run))",
    "COPY runs TO 'warehouse://more' (FORMAT parquet, PARTITION_BY (run))",
    "COPY runs TO 'memory://more.csv'",
    "COPY runs TO 's3://bucket/more.csv'",
    "COPY runs TO '.tmp/more.csv'",
    "EXPLAIN ANALYZE COPY runs TO '{new}' (USE_TMP_FILE false)",
    "EXPLAIN ANALYZE COPY runs TO 'warehouse://{listed}' (USE_TMP_FILE false)",
    "PREPARE p AS COPY runs TO '{new}'; EXECUTE p",
    "EXPORT DATABASE '{new}'",
    "EXPORT DATABASE 'warehouse://more'",
    "ATTACH '{new}'",
    "ATTACH 'warehouse://more.db'",
    "CALL enable_logging('QueryLog', storage = 'file', storage_path = '{new}')",
    "CALL enable_profiling(format = 'json', save_location = '{new}')",
    "PRAGMA enable_profiling = 'json'",
    "SET profiling_output = '{new}'",
    "SET temp_directory = '{new}'",
    "CREATE PERSISTENT SECRET s (TYPE s3, KEY_ID 'k', SECRET 's')",
]

READING = [
    "SELECT * FROM read_text('{secret}')",
    "SELECT * FROM read_text('file://{secret}')",
    "SELECT * FROM read_blob('{secret}')",
    "SELECT * FROM read_csv('{secret}')",
    "SELECT * FROM read_csv_auto('{secret}')",
    "SELECT * FROM sniff_csv('{secret}')",
    "SELECT * FROM read_json('{secret}')",
    "SELECT * FROM read_ndjson_objects('{secret}')",
    "SELECT * FROM '{secret}'",
    "SELECT * FROM read_duckdb('{secret}')",
    "SELECT * FROM query('FROM read_text(''{secret}'')')",
    "SELECT * FROM query_table(['{secret}'])",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM glob('{wh}/**')",
    "SELECT * FROM read_parquet('{hidden}')",
    "SELECT * FROM parquet_metadata('{hidden}')",
    "SELECT * FROM parquet_kv_metadata('{part}')",
    "SELECT * FROM parquet_schema('{part}')",
    "SELECT * FROM read_parquet('warehouse://predictions/dataset=shapes/run=open/shard-00000.parquet')",
    "SELECT * FROM read_text('memory://secret.txt')",
    "SELECT * FROM read_parquet('s3://bucket/file.parquet')",
    "SELECT * FROM read_csv('http://127.0.0.1:1/file.csv')",
    "SELECT * FROM 'https://example.com/file.parquet'",
    "CREATE TABLE t (line VARCHAR); COPY t FROM '{secret}'",
    "IMPORT DATABASE '{wh}'",
    "ATTACH '{secret}' (READ_ONLY)",
    "ATTACH 's3://bucket/file.db'",
    "ATTACH ':memory:' AS a; ATTACH ':memory:' AS b; COPY FROM DATABASE a TO nothing",
    "SELECT getenv('HOME')",
    "SELECT * FROM local_table",
    "SELECT * FROM small",
    "SELECT * FROM arrow_scan(1::POINTER, 1::POINTER, 1::POINTER)",
    "SELECT * FROM pandas_scan(1::POINTER)",
    "SELECT * FROM python_map_function((SELECT 1))",
]

SETTING = [
    "SET lock_configuration = false",
    "RESET lock_configuration",
    "SET GLOBAL enable_external_access = true",
    "RESET enable_external_access",
    "SET allowed_directories = ['/']",
    "SET allowed_paths = ['{secret}']",
    "SET allowed_configs = ['enable_external_access']",
    "SET disabled_filesystems = ''",
    "SET python_enable_replacements = true",
    "SET python_scan_all_frames = true",
    "SET allow_unsigned_extensions = true",
    "SET allow_persistent_secrets = true",
    "SET secret_directory = '{wh}'",
    "SET extension_directories = ['{wh}']",
    "SET custom_extension_repository = 'http://127.0.0.1:1'",
    "SET file_search_path = '/'",
    "SET home_directory = '/'",
    "SET http_proxy = 'http://127.0.0.1:1'",
    "SET memory_limit = '1TB'",
    "PRAGMA lock_configuration = false",
    "PRAGMA enable_external_access = true",
    "INSTALL httpfs",
    "FORCE INSTALL httpfs",
    "INSTALL h3 FROM community",
    "INSTALL httpfs FROM 'http://127.0.0.1:1'",
    "LOAD httpfs",
    "LOAD '{secret}'",
    "UPDATE EXTENSIONS",
    "CREATE SECRET s (TYPE s3, KEY_ID 'k', SECRET 's')",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with a part that is committed and one that is not, and a secret beside it."""
    made = tmp_path_factory.mktemp("lock")
    warehouse = small.create(str(made / "wh"))
    small.add_run(warehouse, "first", [[0.5]])
    small.publish(small.begin(warehouse, "open", 1), 0, [1], [small.row(1, 0, 0.1)])
    (made / "secret.txt").write_text(SECRET)
    (made / "here").mkdir()
    return made


@pytest.fixture
def places(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What the attempts name; nothing on the disk may change by them."""
    monkeypatch.chdir(folder / "here")
    before = contents(folder)
    parts = "predictions/dataset=shapes/run={}/shard-00000.parquet"
    yield {
        "wh": str(folder / "wh"),
        "part": str(folder / "wh" / parts.format("first")),
        "listed": parts.format("first"),
        "hidden": str(folder / "wh" / parts.format("open")),
        "secret": str(folder / "secret.txt"),
        "new": str(folder / "new"),
    }
    assert contents(folder) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


@pytest.mark.parametrize("sql", [*WRITING, *READING, *SETTING])
def test_the_connection_itself_refuses(places: dict[str, str], sql: str) -> None:
    local_table = pa.table({"line": [SECRET]})
    with connect(places["wh"]) as connection, pytest.raises((duckdb.Error, ValueError)) as refused:
        connection.execute(sql.format(**places)).fetchall()
    assert local_table["line"][0].as_py() not in str(refused.value)


@pytest.mark.parametrize("sql", [*WRITING, *READING, *SETTING])
def test_query_refuses_and_explains(places: dict[str, str], sql: str) -> None:
    with pytest.raises((QueryError, StorageError)) as refused:
        query(places["wh"], sql.format(**places))
    assert "Traceback" not in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "path", ["warehouse://{secret}", "warehouse://../secret.txt", "warehouse://runs/first/run.json"]
)
def test_what_is_not_listed_does_not_exist(places: dict[str, str], path: str) -> None:
    assert query(places["wh"], f"SELECT * FROM read_text('{path.format(**places)}')").num_rows == 0
    assert query(places["wh"], "SELECT * FROM glob('warehouse://**')").num_rows == 0
    found = query(places["wh"], "SELECT * FROM glob('warehouse://predictions/**')").to_pydict()["file"]
    assert not [name for name in found if "run=open" in name]


def test_no_setting_or_secret_shows_the_environment(places: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:hunter2@127.0.0.1:1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    settings = query(places["wh"], "SELECT name, value FROM duckdb_settings()").to_pylist()
    values = {row["name"]: row["value"] for row in settings}
    assert (values["lock_configuration"], values["enable_external_access"]) == ("true", "false")
    assert (values["python_enable_replacements"], values["temp_directory"]) == ("false", "")
    assert "hunter2" not in str(settings)
    assert places["wh"] not in str(settings)


def test_the_lock_holds_after_a_transaction_and_in_a_cursor(places: dict[str, str]) -> None:
    with connect(places["wh"]) as connection:
        other = connection.cursor()
        other.execute("BEGIN")
        with pytest.raises(duckdb.Error, match="disabled by configuration"):
            other.execute(f"COPY runs TO '{places['new']}'")
        other.execute("ROLLBACK")
        with pytest.raises(duckdb.Error, match="configuration has been locked"):
            other.execute("SET enable_external_access = true")
