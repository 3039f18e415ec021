"""SQL over the tables of a warehouse, with DuckDB, on a connection that can read them and do nothing else.

DuckDB is given a file system that holds the committed files alone and cannot write; every other way out (files,
network, extensions, databases, Python's variables, its own settings) is closed, and the configuration is locked.
(Naming the parts in `allowed_paths` is not enough: `COPY ... TO 'part' (USE_TMP_FILE false)` then overwrites one.)
Settings: https://duckdb.org/docs/current/operations_manual/securing_duckdb/overview
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing

import duckdb
import pyarrow as pa
from duckdb import DuckDBPyConnection, StatementType

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError, QueryError
from shardlens.pipeline.sql.committed_files import PROTOCOL, CommittedFiles
from shardlens.pipeline.sql.views import EARLY, snapshot
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.layout import Warehouse
from shardlens.pipeline.warehouse.tables import TABLES, Table

__all__ = ["connect", "query"]

READING = {StatementType.SELECT, StatementType.EXPLAIN, StatementType.MULTI}
"""Kinds of statement that `query` takes; MULTI is what PIVOT becomes."""

MEMORY_LIMIT = "50%"
LOCK = f"""
SET temp_directory = '';
SET allowed_directories = ['{PROTOCOL}://'];
SET enable_external_access = false;
SET autoload_known_extensions = false;
SET autoinstall_known_extensions = false;
SET allow_community_extensions = false;
SET allow_persistent_secrets = false;
SET http_proxy = '';
SET http_proxy_username = '';
SET http_proxy_password = '';
SET enable_progress_bar = false;
SET lock_configuration = true;
"""
"""No spilling to disk either; and the proxy, which DuckDB takes from the environment, may hold a password."""


def connect(warehouse: str) -> DuckDBPyConnection:
    """Open a locked connection with the views of a warehouse, as it is now.

    The views `images`, `annotations` and `categories` show every dataset at its latest version; `predictions`,
    `outcomes`, `metrics`, `curves` and `runs` show committed runs, `training` the steps of complete training runs and
    `metrics` their validations too. WHERE on `run`, `dataset` or `version` leaves the other files' rows unread. What is
    committed later is seen by the next connection.

    Raises:
        StorageError: the place is not a warehouse, or cannot be read.
    """
    return _open(CommittedFiles(snapshot(Warehouse(warehouse))))


def _open(files: CommittedFiles, memory_limit: str = MEMORY_LIMIT) -> DuckDBPyConnection:
    connection = duckdb.connect(config={"python_enable_replacements": False, "python_scan_all_frames": False})
    limit = re.fullmatch(r"([1-9]\d*(?:\.\d+)?) ?([KMGT]i?B|%)", memory_limit)
    if limit is None or (limit[2] == "%" and float(limit[1]) > 100):
        raise ConfigError(
            f"memory limit {memory_limit!r}: expected a size such as 2GB or 500MB, or a share up to 100%, such as 50%"
        )
    connection.execute("SET memory_limit = $1", [memory_limit])
    connection.register_filesystem(files)
    connection.execute(LOCK)
    early = {path.partition("/")[0] for path in files.files}
    for table in TABLES.values():
        connection.execute(f"CREATE VIEW {table.name} AS {_selection(table, table.name + EARLY in early)}")
    return connection


def _selection(table: Table, early: bool) -> str:
    """The rows of all files of a table, those that lack its later columns too."""
    if not early:
        return _reading_of(table, table.name, ())
    return f"{_reading_of(table, table.name, ())} UNION ALL {_reading_of(table, table.name + EARLY, table.later)}"


def _reading_of(table: Table, folder: str, absent: Sequence[str]) -> str:
    types = ", ".join(f"'{column}': VARCHAR" for column in table.partitions)
    options = f", hive_partitioning = true, hive_types = {{{types}}}, hive_types_autocast = false" if types else ""
    options += ", union_by_name = true" if table.grown else ""
    columns = ", ".join(f'{"NULL AS " if column in absent else ""}"{column}"' for column in table.columns)
    return f"SELECT {columns} FROM read_parquet('{PROTOCOL}://{folder}/**'{options})"


def query(warehouse: str, sql: str, *, timeout: float | None = None, memory_limit: str = MEMORY_LIMIT) -> pa.Table:
    """Answer one SELECT (or WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE, PIVOT, EXPLAIN).

    Args:
        timeout: seconds after which the query is stopped; None = never.
        memory_limit: memory that it may use, such as 2GB, or a share of this machine's such as 50%.

    Raises:
        QueryError: the SQL is wrong, asks for what a query may not do, or takes more time or memory than it may.
        StorageError: a file of the warehouse cannot be read.
        ConfigError: a limit is no such limit.
    """
    if timeout is not None and not 0 < timeout < threading.TIMEOUT_MAX:
        raise ConfigError(f"timeout is {timeout}: expected seconds, more than 0")
    files = CommittedFiles(snapshot(Warehouse(warehouse)))
    with closing(_open(files, memory_limit)) as connection:
        try:
            folders = {path.partition("/")[0] for path in files.files}
            return _answered(connection, _reading(connection, sql), timeout, folders)
        except duckdb.OutOfMemoryException as error:
            raise QueryError(
                f"the query needs more memory than it may use ({memory_limit}): ask for fewer columns or rows, or raise "
                f"--memory-limit ({str(error).splitlines()[0]})"
            ) from None
        except duckdb.Error as error:
            raise files.failures[0] if files.failures else _explained(error) from None


def _answered(connection: DuckDBPyConnection, sql: str, timeout: float | None, folders: Collection[str]) -> pa.Table:
    """The answer; where SQL does not say which of two tables' columns it means, a run's or the images', it is the images'.

    The tables of runs got theirs later: what was asked before, such as the file_name of outcomes joined with images, is
    answered still.
    """
    try:
        return _answer(connection, sql, timeout)
    except duckdb.BinderException as error:
        column = re.match(r'Binder Error: Ambiguous reference to column name "(\w+)"', str(error))
        if column is None or column[1] not in tables.IMAGES.names:
            raise
        for table in (TABLES["predictions"], TABLES["outcomes"]):
            early = _selection(table, table.name + EARLY in folders)
            without = f"SELECT * EXCLUDE ({', '.join(table.later)}) FROM ({early})"
            connection.execute(f"CREATE OR REPLACE VIEW {table.name} AS {without}")
        try:
            return _answer(connection, sql, timeout)
        except duckdb.BinderException:
            raise error from None


def _answer(connection: DuckDBPyConnection, sql: str, timeout: float | None) -> pa.Table:
    """Run the statement in a thread of its own, since DuckDB would hold Ctrl-C back until it is done."""
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(lambda: connection.sql(sql).to_arrow_table())
        try:
            if not wait([answer], timeout).done:
                raise QueryError(
                    f"the query was stopped after {timeout:g} s: ask for fewer rows (WHERE run = ...), or raise --timeout"
                )
        finally:
            while not answer.done():  # it may not have begun when it is interrupted
                connection.interrupt()
                wait([answer], 0.05)
        return answer.result()


def _reading(connection: DuckDBPyConnection, sql: str) -> str:
    """The text of the one statement in `sql`, which only reads."""
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise QueryError(f"the SQL holds {len(statements)} statements: expected one")
    try:
        kind = statements[0].type
    except ValueError:  # DuckDB's Python package has no name for some kinds
        kind = StatementType.INVALID
    if kind not in READING:
        raise QueryError(
            f"{' '.join(sql.split())[:60]!r} does more than read: expected SELECT, WITH, FROM, DESCRIBE, SUMMARIZE or "
            "EXPLAIN (--output writes the result to a file)"
        )
    return statements[0].query


def _explained(error: duckdb.Error) -> QueryError:
    text = storage.redact(str(error).strip())
    if isinstance(error, duckdb.CatalogException) and "Table" in text:
        text += f"\nthe views are {', '.join(TABLES)}"
    return QueryError(text)
