"""SQL over the tables of a warehouse, with DuckDB, on a connection that can read them and do nothing else.

DuckDB is given a file system that holds the committed files alone and cannot write; every other way out (files,
network, extensions, databases, Python's variables, its own settings) is closed, and the configuration is locked.
(Naming the parts in `allowed_paths` is not enough: `COPY ... TO 'part' (USE_TMP_FILE false)` then overwrites one.)
Settings: https://duckdb.org/docs/current/operations_manual/securing_duckdb/overview
"""

from __future__ import annotations

from contextlib import closing

import duckdb
import pyarrow as pa
from duckdb import DuckDBPyConnection, StatementType

from shardlens.pipeline import storage
from shardlens.pipeline.errors import QueryError
from shardlens.pipeline.sql.committed_files import PROTOCOL, CommittedFiles
from shardlens.pipeline.sql.views import VIEWS, View, snapshot
from shardlens.pipeline.warehouse.layout import Warehouse

__all__ = ["connect", "query"]

READING = {StatementType.SELECT, StatementType.EXPLAIN, StatementType.MULTI}
"""Kinds of statement that `query` takes; MULTI is what PIVOT becomes."""

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
    `outcomes`, `metrics`, `curves` and `runs` show committed runs, `training` the steps of whole training runs and
    `metrics` their validations too. WHERE on `run`, `dataset` or `version` leaves the other files' rows unread. What is
    committed later is seen by the next connection.

    Raises:
        StorageError: the place is not a warehouse, or cannot be read.
    """
    return _open(CommittedFiles(snapshot(Warehouse(warehouse))))


def _open(files: CommittedFiles) -> DuckDBPyConnection:
    connection = duckdb.connect(config={"python_enable_replacements": False, "python_scan_all_frames": False})
    connection.register_filesystem(files)
    connection.execute(LOCK)
    for name, view in VIEWS.items():
        connection.execute(_definition(name, view))
    return connection


def _definition(name: str, view: View) -> str:
    types = ", ".join(f"'{column}': VARCHAR" for column in view.partitions)
    options = f", hive_partitioning = true, hive_types = {{{types}}}, hive_types_autocast = false" if types else ""
    options += ", union_by_name = true" if view.grown else ""
    columns = ", ".join(f'"{column}"' for column in view.columns)
    return f"CREATE VIEW {name} AS SELECT {columns} FROM read_parquet('{PROTOCOL}://{name}/**'{options})"


def query(warehouse: str, sql: str) -> pa.Table:
    """Answer one SELECT (or WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE, PIVOT, EXPLAIN).

    Raises:
        QueryError: the SQL is wrong, or asks for what a query may not do.
        StorageError: a file of the warehouse cannot be read.
    """
    files = CommittedFiles(snapshot(Warehouse(warehouse)))
    with closing(_open(files)) as connection:
        try:
            return connection.sql(_reading(connection, sql)).to_arrow_table()
        except duckdb.Error as error:
            raise files.failures[0] if files.failures else _explained(error) from None


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
        text += f"\nthe views are {', '.join(VIEWS)}"
    return QueryError(text)
