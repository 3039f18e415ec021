"""The command line as its users meet it: results on standard output, errors explained, exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shardlens.flows.synthetic_shapes import draw_dataset
from shardlens.pipeline.cli import COMMANDS

pytestmark = pytest.mark.slow


def shardlens(*words: object, warehouse: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("shardlens")), *map(str, words)]
    place = ["--warehouse", str(warehouse)] if warehouse else []
    return subprocess.run([*command, *place], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight drawn images, ingested and predicted with random weights."""
    folder = tmp_path_factory.mktemp("cli")
    draw_dataset(folder / "shapes", {"val": 8}, size=64)
    (folder / "labels.txt").write_text("disc\nsquare\ntriangle\n")
    images, truth = folder / "shapes" / "val" / "images", folder / "shapes" / "instances_val.json"
    root = folder / "warehouse"
    taken = shardlens("ingest", "shapes", "--images", images, "--annotations", truth, "--json", warehouse=root)
    assert json.loads(taken.stdout)["images"] == 8
    model = ("--model", "fcos_small", "--weights", "random", "--labels", folder / "labels.txt")
    assert shardlens("predict", "shapes", *model, "--run", "r", warehouse=root).returncode == 0
    return root


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str) -> None:
    done = shardlens(command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: shardlens" in done.stdout


def test_results_go_to_standard_output_and_progress_does_not(warehouse: Path) -> None:
    done = shardlens("evaluate", "r", "--json", warehouse=warehouse)
    assert done.returncode == 0, done.stderr
    assert {"task": "images", "metric": "scored", "value": 8} in json.loads(done.stdout)
    assert "evaluate" in done.stderr


def test_a_run_that_is_complete_has_no_speed(warehouse: Path) -> None:
    done = shardlens("predict", "--retry-quarantined", "r", warehouse=warehouse)
    assert done.returncode == 0, done.stderr
    assert "  nothing left to predict: all of its shards were there already\n" in done.stdout
    assert "images/s" not in done.stdout


def test_lists_are_tables_and_json(warehouse: Path) -> None:
    assert json.loads(shardlens("runs", "--json", warehouse=warehouse).stdout)[0]["state"] == "committed"
    assert "shapes" in shardlens("datasets", warehouse=warehouse).stdout
    assert {"unet", "darknet"} <= {row["model"] for row in json.loads(shardlens("models", "--json").stdout)}


def test_a_query_writes_where_it_is_reported(warehouse: Path, tmp_path: Path) -> None:
    sql = "SELECT count(*) AS images FROM outcomes"
    assert json.loads(shardlens("query", sql, "--json", warehouse=warehouse).stdout) == [{"images": 8}]
    done = shardlens("query", sql, "--format", "csv", "--output", tmp_path / "out.csv", warehouse=warehouse)
    assert (tmp_path / "out.csv").read_text().split() == ["images", "8"]
    assert done.stdout == ""


def test_a_retry_names_the_run_alone(warehouse: Path) -> None:
    done = shardlens("predict", "--retry-quarantined", "r", "--json", warehouse=warehouse)
    assert json.loads(done.stdout)["quarantined"] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("predict",), "no dataset given"),
        (("predict", "shape", "--model", "unet", "--weights", "random"), "shapes"),
        (("predict", "shapes", "--model", "unett", "--weights", "random"), "nearest: unet"),
        (("predict", "shapes", "--model", "unet", "--weights", "random"), "does not know its labels' names"),
        (("predict", "shapes", "--model", "unet"), "no weights given for unet"),
        (
            ("predict", "shapes", "--model", "unet", "--weights", "random", "--option", "width"),
            "--option 'width': expected NAME=VALUE",
        ),
        (("evaluate", "q"), "did you mean r"),
        (("query", "SELECT * FROM prediction"), 'Did you mean "predictions"'),
        (("ingest", "new", "--images", "/nowhere"), "/nowhere: not found"),
        (("export", "q", "--output", "/tmp/x"), "there is no run 'q'"),
    ],
)
def test_a_users_mistake_is_explained_without_a_traceback(
    warehouse: Path, words: tuple[str, ...], message: str
) -> None:
    done = shardlens(*words, warehouse=warehouse)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_wrong_usage_is_status_two() -> None:
    assert shardlens("predict", "shapes", "--modle", "unet").returncode == 2
