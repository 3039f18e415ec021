"""What a terminal may do to a command, and a command to a terminal: encodings, full disks, Ctrl-C, escapes, time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shardlens.pipeline.cli import COMMANDS
from shardlens.pipeline.warehouse.layout import Warehouse
from tests import small_warehouse as small
from tests.test_query import ENDLESS

SHARDLENS = str(Path(sys.executable).with_name("shardlens"))


@pytest.fixture(scope="module")
def wh(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    warehouse = small.create(str(tmp_path_factory.mktemp("terminal") / "wh"))
    small.add_dataset(warehouse)
    small.add_run(warehouse, "fcos-a", [[0.9, 0.8], [0.7]], model="fasterrcnn_resnet50_fpn")
    small.add_metrics(warehouse, "fcos-a", 0.19345678)
    small.add_training(warehouse, "cells", [4.0, 3.0, 2.0, 1.0])
    return warehouse


def shardlens(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SHARDLENS, *words], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


def test_a_full_disk_is_one_sentence(wh: Warehouse) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [SHARDLENS, "query", "FROM predictions", "--warehouse", wh.root],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (1, "error: the output cannot be written: No space left on device\n")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_of_another_encoding_shows_what_it_can(wh: Warehouse, encoding: str) -> None:
    words = ("query", "SELECT '日本 Köln' AS a, repeat('x', 300) AS b", "--warehouse", wh.root)
    done = subprocess.run(
        [SHARDLENS, *words], capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert b"\\u65e5\\u672c K" in done.stdout
    assert done.stderr == b""


@pytest.mark.parametrize(
    "sql", ["-- which\nSELECT 1 AS a", "--which\nSELECT 1 AS a", "-- which\n\n/* x */ SELECT 1 AS a"]
)
def test_sql_may_begin_with_a_comment(wh: Warehouse, sql: str) -> None:
    done = shardlens("query", sql, "--json", "--warehouse", wh.root)
    assert json.loads(done.stdout) == [{"a": 1}]
    assert "Unknown option" in shardlens("query", "--timeot", "3", "SELECT 1").stderr


def test_ctrl_c_in_a_query_is_one_line(wh: Warehouse) -> None:
    process = subprocess.Popen([SHARDLENS, "query", ENDLESS, "--warehouse", wh.root], stderr=subprocess.PIPE, text=True)
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip().startswith("interrupted")
    assert "Traceback" not in errors


def test_names_of_files_do_not_steer_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "\x1b[2Jgone").write_bytes(b"")
    done = shardlens("ingest", "x", "--images", str(tmp_path), "--warehouse", str(tmp_path))
    assert done.returncode == 1
    assert "\x1b" not in done.stdout + done.stderr
    assert r"\x1b[2Jgone" in done.stderr


@pytest.mark.parametrize(("word", "hint"), [("qery", "did you mean query"), ("zzz", "--help' lists the commands")])
def test_an_unknown_command_is_one_line(word: str, hint: str) -> None:
    done = shardlens(word)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert hint in done.stderr


def test_the_output_of_a_query_follows_its_suffix(wh: Warehouse, tmp_path: Path) -> None:
    sql = "SELECT score FROM predictions ORDER BY score"
    for name in ("x.csv", "x.json", "x.parquet"):
        assert shardlens("query", sql, "--output", str(tmp_path / name), "--warehouse", wh.root).returncode == 0
    assert (tmp_path / "x.csv").read_text() == "score\n0.7\n0.8\n0.9\n"
    assert [row["score"] for row in json.loads((tmp_path / "x.json").read_text())] == [0.7, 0.8, 0.9]
    assert (tmp_path / "x.parquet").read_bytes()[:4] == b"PAR1"
    for words in (("x.txt",), ("x.csv", "--format", "table"), ("x",)):
        done = shardlens("query", sql, "--output", str(tmp_path / words[0]), *words[1:], "--warehouse", wh.root)
        assert done.returncode == 1
        assert "expected" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv", "x.json", "x.parquet"]


@pytest.mark.parametrize("columns", ["80", "120"])
def test_runs_lists_predictions_and_training_with_their_figures(wh: Warehouse, columns: str) -> None:
    done = shardlens("runs", "--warehouse", wh.root, COLUMNS=columns)
    header = done.stdout.splitlines()[0].split()
    assert header[:7] == ["run", "time", "state", "dataset", "model", "images", "figures"]
    assert "fcos-a" in done.stdout
    assert "AP 0.1935" in done.stdout
    assert max(map(len, done.stdout.splitlines()[:-1])) <= int(columns)
    listed = json.loads(shardlens("runs", "--json", "--warehouse", wh.root).stdout)
    assert {(run["run"], run["kind"]) for run in listed} == {("fcos-a", "predict"), ("cells", "train")}


def test_recipes_are_listed() -> None:
    rows = json.loads(shardlens("recipes", "--json").stdout)
    assert {"bccd", "detection-1x"} <= {row["recipe"] for row in rows}


def test_verify_finds_a_damaged_part(tmp_path: Path) -> None:
    warehouse = small.create(str(tmp_path / "wh"))
    record = small.add_run(warehouse, "r", [[0.9, 0.8], [0.7]])
    assert shardlens("verify", "r", "--warehouse", warehouse.root).returncode == 0
    part = Path(record.prediction_parts()[0])
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    done = shardlens("verify", "r", "--json", "--warehouse", warehouse.root)
    assert done.returncode == 1
    (damage,) = json.loads(done.stdout)["damaged"]
    assert damage["uri"] == str(part)
    assert "SHA-256" in damage["problem"]


def test_help_is_grouped_and_says_defaults_in_words() -> None:
    text = shardlens("query", "--help", COLUMNS="120").stdout
    places = [text.index(f"─ {group} ") for group in ("What", "Where", "How", "Output", "Rarely used")]
    assert places == sorted(places)
    assert "--install-completion" in shardlens("--help").stdout
    assert not [command for command in COMMANDS if "None" in shardlens(command, "--help").stdout]
