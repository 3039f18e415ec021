from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.errors import QueryError, StorageError
from shardlens.pipeline.sql.committed_files import CommittedFiles, File
from shardlens.pipeline.warehouse import tables

BODY = tables.to_bytes(pa.table({"x": np.random.default_rng(0).integers(0, 1 << 60, 2000)}))


@pytest.fixture
def files(tmp_path: Path) -> CommittedFiles:
    """One part on disk, one file that is kept whole, one held in memory, one that is shorter than was promised."""
    for name in ("part", "metrics", "cut"):
        (tmp_path / name).write_bytes(BODY)
    return CommittedFiles(
        {
            "v/part": File(str(tmp_path / "part"), len(BODY)),
            "v/metrics": File(str(tmp_path / "metrics")),
            "v/columns": File(data=BODY),
            "v/cut": File(str(tmp_path / "cut"), len(BODY) + 1),
        }
    )


@pytest.mark.parametrize("name", ["part", "metrics", "columns"])
def test_reads_as_a_file_does(files: CommittedFiles, name: str) -> None:
    assert files.size(f"warehouse://v/{name}") == len(BODY)
    file = files.open(f"warehouse://v/{name}", "rb")
    assert file.seek(-3, 2) == len(BODY) - 3
    assert file.read(100) == BODY[-3:]
    assert (file.read(1), file.tell()) == (b"", len(BODY))
    file.seek(5)
    assert file.seek(2, 1) == 7
    assert file.read() == BODY[7:]


def test_each_thread_has_its_own_place_in_a_file(files: CommittedFiles) -> None:
    file = files.open("v/part")

    def walk(start: int) -> bytes:
        file.seek(start)
        return b"".join(file.read(10) for _ in range(100))

    with ThreadPoolExecutor(8) as threads:
        for start, data in zip(range(0, 4000, 100), threads.map(walk, range(0, 4000, 100)), strict=True):
            assert data == BODY[start : start + 1000]


def test_what_is_not_listed_is_not_there(files: CommittedFiles, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    for path in (str(tmp_path / "secret"), "v/../v/part", "v", ""):
        assert not files.exists(path)
        assert not files.isfile(path)
        assert files.glob(path) == []
        with pytest.raises(FileNotFoundError, match="is not a file of this warehouse"):
            files.open(path)
    assert files.glob("warehouse://v/**") == ["v/part", "v/metrics", "v/columns", "v/cut"]


@pytest.mark.parametrize("mode", ["wb", "ab", "r+b", "xb", "w"])
def test_nothing_is_opened_for_writing(files: CommittedFiles, mode: str) -> None:
    with pytest.raises(QueryError, match=r"v/part: a query cannot write files: use --output"):
        files.open("warehouse://v/part", mode)
    assert len(files.failures) == 1


@pytest.mark.parametrize("call", ["rm_file", "touch"])
def test_nothing_can_be_removed_or_touched(files: CommittedFiles, call: str) -> None:
    with pytest.raises((NotImplementedError, QueryError, FileNotFoundError)):
        getattr(files, call)("v/part")
    with pytest.raises((NotImplementedError, QueryError, FileNotFoundError)):
        files.mv("v/part", "v/other")
    assert storage.read(files.files["v/part"].uri) == BODY


def test_a_short_file_is_reported_by_its_place(files: CommittedFiles) -> None:
    with pytest.raises(
        StorageError, match=rf"/cut is damaged \({len(BODY)} bytes at 0 where {len(BODY) + 1} were expected"
    ):
        files.open("v/cut").read()


def test_a_file_that_may_change_is_read_once(files: CommittedFiles) -> None:
    first = files.open("v/metrics").read()
    storage.publish(files.files["v/metrics"].uri, b"new")
    assert files.open("v/metrics").read() == first
    assert files.size("v/metrics") == len(first)
