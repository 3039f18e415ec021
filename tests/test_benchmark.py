"""The constants of the stage model: measured, and nothing left behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shardlens.pipeline import benchmark, storage
from shardlens.pipeline.doctor import DoctorConfig, bench
from shardlens.pipeline.errors import ExecutionError, StorageError
from shardlens.pipeline.executors.base import Lost, Stage
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.executors.opening import open_executor
from tests.conftest import Bucket


def test_constants_are_finite_and_positive() -> None:
    with open_executor() as executor:
        found = [benchmark.decoding(), benchmark.writing_rows(), *benchmark.dealing(executor)]
    assert all(0 < value < 1e6 for value in found)


class Deadly(LocalExecutor):
    """Loses every item, as a machine without memory does."""

    def map(self, stage: Stage[Any, Any], items: Iterable[Any], attempts: int = 3) -> Iterator[Any]:
        yield from (Lost(item, attempts, "out of memory") for item in items)


def test_workers_that_die_are_no_bug() -> None:
    with pytest.raises(ExecutionError, match="a worker that had nothing to do died 3 times: out of memory"):
        benchmark.dealing(Deadly())


@pytest.mark.s3
def test_fetching_leaves_nothing_in_the_store(s3: Bucket) -> None:
    objects, megabytes = benchmark.fetching(s3.uri)
    assert megabytes == pytest.approx(objects * benchmark.OBJECT_BYTES / 1e6)
    assert storage.children(s3.uri) == []


def test_a_warehouse_that_is_missing_stays_so(tmp_path: Path) -> None:
    states = {finding.state for finding in bench(DoctorConfig(str(tmp_path / "a" / "b"), ray=False))}
    assert states == {"ok"}
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_written_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError):
        benchmark.fetching(str(tmp_path / "file"))
    states = {finding.part: finding.state for finding in bench(DoctorConfig(str(tmp_path / "file"), ray=False))}
    assert states == {"decode": "ok", "bench": "fail"}


def test_the_doctor_says_each_constant_with_its_unit(tmp_path: Path) -> None:
    found = {finding.part: finding.found for finding in bench(DoctorConfig(str(tmp_path), ray=False))}
    assert "ms of a core per megapixel" in found["decode"]
    assert "MB/s" in found["fetch"]
    assert "per million rows" in found["rows"]
