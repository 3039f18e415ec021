"""Kill delete and gc in the middle, as real processes: nothing is half visible, and gc removes exactly what was left."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shardlens.pipeline import storage
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.query import query
from shardlens.pipeline.verify import verify
from shardlens.pipeline.warehouse import removal, runs
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.conftest import ROOT, Bucket
from tests.small_warehouse import add_dataset, add_metrics, add_run, add_training, create

SHARDS = 20
LOOSE = {"disk": 4000, "s3": 1500}
"""Further objects of the run that is removed, so that its removal takes a while."""

pytestmark = [pytest.mark.timeout(600)]


@pytest.fixture(params=["disk", pytest.param("s3", marks=[pytest.mark.s3, pytest.mark.slow])])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    """A warehouse with a run that stays, and one of many objects."""
    bucket: Bucket | None = request.getfixturevalue("s3") if request.param == "s3" else None
    warehouse = create(f"{bucket.uri}/warehouse" if bucket else str(tmp_path / "warehouse"))
    add_dataset(warehouse)
    add_run(warehouse, "stays", [[0.9], [0.8, 0.7], []])
    add_metrics(warehouse, "stays", 0.5)
    add_training(warehouse, "trained", [1.0, 0.5])
    return warehouse


def add_many(warehouse: Warehouse, run: str) -> None:
    add_run(warehouse, run, [[0.5]] * 2 * SHARDS)
    folder = warehouse.partials("shapes", run)
    count = LOOSE["disk" if storage.is_local(folder) else "s3"]
    if storage.is_local(folder):
        os.makedirs(folder)
    names = [f"{folder}/shard-{i:05d}-ab.partial" for i in range(count)]
    if storage.is_local(folder):
        for name in names:
            Path(name).write_bytes(b"x")
    else:
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda name: storage.publish(name, b"x"), names))


def contents(warehouse: Warehouse) -> dict[str, str]:
    """Name and digest of every object."""
    entries = storage.walk(warehouse.root)
    data = storage.read_many([(entry.uri, None, None) for entry in entries])
    return {e.name: hashlib.sha256(d).hexdigest() for e, d in zip(entries, data, strict=True) if isinstance(d, bytes)}


def start(*words: str, warehouse: Warehouse) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from shardlens.pipeline.cli import main; main()", *words]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / '.src'}:{ROOT}", "SHARDLENS_WAREHOUSE": warehouse.root}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return printed


def kill_when(process: subprocess.Popen[str], reached: Callable[[], bool], may_end: bool = False) -> None:
    """Kill a process at a moment; it must not have ended by itself."""
    deadline = time.monotonic() + 300
    while not reached():
        if process.poll() == 0 and may_end:
            break
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
    process.kill()
    process.communicate()


def left_below(folder: str, most: int) -> Callable[[], bool]:
    if storage.is_local(folder):
        return lambda: len(os.listdir(folder)) <= most
    return lambda: len(storage.walk(folder)) <= most


MOMENTS = {"marked": 1.0, "begun": 0.98, "middle": 0.6}
"""How much of the loose objects is left, at most, when the process is killed."""


def moment(warehouse: Warehouse, run: str, name: str) -> Callable[[], bool]:
    folder = warehouse.partials("shapes", run)
    if name == "marked":
        mark = storage.join(warehouse.run(run), removal.MARK)
        return (lambda: os.path.exists(mark)) if storage.is_local(mark) else (lambda: storage.exists(mark))
    return left_below(folder, int(MOMENTS[name] * len(storage.walk(folder))))


@pytest.mark.parametrize("at", MOMENTS)
def test_a_killed_delete_leaves_nothing_half_visible_and_gc_finishes_it(warehouse: Warehouse, at: str) -> None:
    before = contents(warehouse)
    add_many(warehouse, "goes")
    process = start("delete", "run", "goes", warehouse=warehouse)
    kill_when(process, moment(warehouse, "goes", at))
    counted = "SELECT run, count(*) AS n FROM outcomes GROUP BY ALL ORDER BY 1"
    rows = query(warehouse.root, counted).to_pylist()
    assert rows in ([{"run": "stays", "n": 3}], [{"run": "goes", "n": 2 * SHARDS}, {"run": "stays", "n": 3}])
    assert storage.exists(warehouse.run("goes"))
    printed = finish(start("gc", warehouse=warehouse))
    assert "run goes, " in printed
    assert "its deletion was interrupted" in printed
    assert contents(warehouse) == before
    assert not verify(warehouse.root, "stays").damaged
    assert "removed 0 objects, 0 B" in finish(start("gc", warehouse=warehouse))
    again = finish(start("delete", "run", "goes", warehouse=warehouse))
    assert "there is no run 'goes': nothing to delete" in again


@pytest.mark.parametrize("at", ["begun", "middle"])
def test_a_killed_gc_is_finished_by_the_next(warehouse: Warehouse, at: str) -> None:
    before = contents(warehouse)
    add_many(warehouse, "orphan")
    for name in ("commit.json", "run.json"):
        storage.delete(storage.join(warehouse.run("orphan"), name))
    orphans = len(contents(warehouse)) - len(before)
    planned = finish(start("gc", "--older-than", "0s", "--dry-run", warehouse=warehouse))
    assert f"would remove {orphans} objects, " in planned
    kill_when(start("gc", "--older-than", "0s", warehouse=warehouse), moment(warehouse, "orphan", at), may_end=True)
    assert not verify(warehouse.root, "stays").damaged
    finish(start("gc", "--older-than", "0s", warehouse=warehouse))
    assert contents(warehouse) == before
    assert not verify(warehouse.root, "stays").damaged


def test_a_query_whose_run_is_deleted_says_so(warehouse: Warehouse) -> None:
    """A connection lists the committed files when it is opened; the parts are gone when they are read."""
    add_run(warehouse, "goes", [[0.5]] * 2 * SHARDS)
    program = (
        "import sys\n"
        "from shardlens.pipeline.sql import committed_files\n"
        "from shardlens.pipeline.cli import main\n"
        "opened = committed_files.CommittedFiles.open\n"
        "def wait(self, path, *args, **kwargs):\n"
        "    print('reading', file=sys.stderr, flush=True)\n"
        "    sys.stdin.readline()\n"
        "    return opened(self, path, *args, **kwargs)\n"
        "committed_files.CommittedFiles.open = wait\n"
        "main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / '.src'}:{ROOT}", "SHARDLENS_WAREHOUSE": warehouse.root}
    command = [sys.executable, "-c", program, "query", "SELECT sum(score) FROM predictions WHERE run = 'goes'"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=environment, text=True, **pipes)  # type: ignore[call-overload]
    assert process.stderr is not None
    assert process.stderr.readline() == "reading\n"
    finish(start("delete", "run", "goes", warehouse=warehouse))
    _, errors = process.communicate("\n" * 500, timeout=300)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert "error: " in errors
    assert "is gone: its run was deleted or predicted again while the query ran; run the query once more" in errors


GC_LOOP = """
import sys, time
from shardlens.pipeline.gc import GcConfig, gc
until = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    for each in gc(GcConfig(warehouse=sys.argv[1])).removed:
        print(each.kind, each.name, flush=True)
"""


def test_predict_that_starts_while_gc_runs_loses_nothing(tmp_path: Path) -> None:
    """A run of the latest version goes on; one of an old version keeps it, or says that it is being deleted."""
    warehouse = Warehouse(str(tmp_path / "warehouse"))
    images = tmp_path / "images"
    images.mkdir()
    versions = []
    for count in (1, 2, 3):
        Image.fromarray(np.full((8, 8, 3), count, np.uint8)).save(images / f"{count}.png")
        config = IngestConfig("dots", images=str(images), warehouse=warehouse.root)
        versions.append(ingest(config, LocalExecutor()).version)
    for path in tmp_path.rglob("*"):
        os.utime(path, (time.time() - 9 * 86400,) * 2)
    given = ["--model", "tests.odd_models:SPEC", "--weights", "random", "--precision", "fp32", "--shard-size", "1"]
    given += ["--option", f"log={tmp_path}", "--option", "sleep=0.2"]
    pinned = start("predict", f"dots@{versions[0]}", "--run", "pinned", *given, warehouse=warehouse)
    newest = start("predict", "dots", "--run", "newest", *given, warehouse=warehouse)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / '.src'}:{ROOT}"}
    gc_loop = [sys.executable, "-c", GC_LOOP, warehouse.root, "30"]
    loop = subprocess.Popen(gc_loop, env=environment, stdout=subprocess.PIPE, text=True)
    finish(newest)
    printed, _ = pinned.communicate(timeout=300)
    loop.terminate()
    removed = loop.communicate()[0].splitlines()
    assert "Traceback" not in printed
    assert not verify(warehouse.root, "newest").damaged
    assert f"version dots@{versions[1]}" in removed
    kept = f"version dots@{versions[0]}" not in removed
    if kept:
        assert pinned.returncode == 0, printed
        assert not verify(warehouse.root, "pinned").damaged
        assert Dataset.open(warehouse, "dots", versions[0]).images.num_rows == 1
    else:
        assert pinned.returncode == 1
        assert "is being deleted" in printed or "has no version" in printed
        assert [record.name for record in runs.committed(warehouse)] == ["newest"]
