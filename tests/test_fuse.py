from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.cli import build_app
from shardlens.pipeline.errors import ConfigError, RunError
from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.base import Progress
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.export_coco import export_coco
from shardlens.pipeline.fuse import FuseConfig, fuse
from shardlens.pipeline.query import query
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.layout import Warehouse
from tests import small_warehouse as small

BOX = {"x": 0.0, "y": 2.0, "width": 10.0, "height": 5.0}
MOVED = {"x": 2.0, "y": 2.0, "width": 10.0, "height": 5.0}


@pytest.fixture
def wh(tmp_path: Path) -> Warehouse:
    warehouse = small.create(str(tmp_path / "wh"))
    small.add_dataset(warehouse)
    return warehouse


def add(wh: Warehouse, name: str, rows: list[dict[str, Any]], shard_size: int = 2, **settings: Any) -> None:
    """A committed run over the six images."""
    record = small.begin(wh, name, -(-6 // shard_size), **settings)
    parts = []
    for shard in range(record.shards):
        images = [i for i in range(1, 7) if (i - 1) // shard_size == shard]
        parts.append(small.publish(record, shard, images, [r for r in rows if r["image_id"] in images]))
    runs.commit(record, parts, {})


def config(wh: Warehouse, *names: str, run: str = "both", **other: Any) -> FuseConfig:
    return FuseConfig(names or ("a", "b"), run=run, warehouse=wh.root, **other)


def two(wh: Warehouse) -> None:
    """Two runs with shards of different sizes that see one object of image 2 alike, and another each alone."""
    add(wh, "a", [small.row(2, 0, 0.8, bbox=BOX), small.row(5, 0, 0.6, bbox=BOX)])
    add(
        wh, "b", [small.row(2, 0, 0.4, bbox=MOVED), small.row(2, 1, 0.3, bbox=BOX, category_id=3, category="square")], 4
    )


def rows(wh: Warehouse, run: str = "both") -> list[tuple[Any, ...]]:
    found = query(
        wh.root,
        f"SELECT image_id, rank, category, score, bbox.x AS x, bbox.width AS w FROM predictions WHERE run = '{run}' ORDER BY ALL",
    )
    return [tuple(round(v, 6) if isinstance(v, float) else v for v in row.values()) for row in found.to_pylist()]


def test_boxes_of_one_object_become_one(wh: Warehouse) -> None:
    two(wh)
    report = fuse(config(wh))
    assert (report.images, report.predictions, report.fused_from) == (6, 3, {"a": 2, "b": 2})
    assert rows(wh) == [
        (2, 0, "circle", 0.6, 0.666667, 10.0),  # (0.8 * 0 + 0.4 * 2) / 1.2, and the mean of both scores
        (2, 1, "square", 0.15, 0.0, 10.0),  # one of two runs saw it
        (5, 0, "circle", 0.3, 0.0, 10.0),
    ]


def test_weights_count(wh: Warehouse) -> None:
    two(wh)
    fuse(config(wh, weights=(3.0, 1.0)))
    assert rows(wh)[0] == (2, 0, "circle", round((2.4 + 0.4) / 2 * 2 / 4, 6), round(0.8 / 2.8, 6), 10.0)


@pytest.mark.parametrize("shard_size", [1, 4, 512])
def test_any_shards_give_the_same_rows(wh: Warehouse, shard_size: int) -> None:
    two(wh)
    fuse(config(wh))
    seen: list[Progress] = []
    fuse(config(wh, run="again", shard_size=shard_size), seen.append)
    assert rows(wh, "again") == rows(wh)
    assert seen[-1].done == 6
    record = runs.open_committed(wh, "again")
    marks = [tables.from_bytes(storage.read(uri)) for uri in record.outcome_parts()]
    assert [n for mark in marks for n in mark["predictions"].to_pylist()] == [0, 2, 0, 0, 1, 0]


def test_what_is_fused_is_evaluated_and_exported(wh: Warehouse, tmp_path: Path) -> None:
    two(wh)
    fuse(config(wh))
    with open_executor() as executor:
        evaluate(EvaluateConfig("both", warehouse=wh.root), executor)
    export_coco(runs.open_committed(wh, "both"), str(tmp_path / "both.json"))
    assert (tmp_path / "both.json").stat().st_size > 0


def test_again_changes_nothing_and_another_fusion_is_refused(wh: Warehouse) -> None:
    two(wh)
    first = fuse(config(wh))
    before = small.committed_json(runs.open_committed(wh, "both"))
    assert fuse(config(wh)) == first
    assert small.committed_json(runs.open_committed(wh, "both")) == before
    with pytest.raises(RunError, match=r"run 'both' exists with other settings:\s+iou: 0.55 there, 0.7 here"):
        fuse(config(wh, iou=0.7))


def test_an_image_is_quarantined_where_no_run_could_predict_it(wh: Warehouse) -> None:
    for name, failed in (("a", {1, 2}), ("b", {2})):
        record = small.begin(wh, name, 1)
        outcomes = [
            {"image_id": i, "status": "quarantined" if i in failed else "ok", "predictions": 0} for i in range(1, 7)
        ]
        empty = tables.from_rows([], tables.PREDICTIONS)
        runs.commit(record, [runs.publish(record, 0, empty, tables.from_rows(outcomes, tables.OUTCOMES))], {})
    fuse(config(wh))
    found = query(wh.root, "SELECT image_id FROM outcomes WHERE run = 'both' AND status = 'quarantined'")
    assert found["image_id"].to_pylist() == [2]


def test_runs_that_do_not_go_together(wh: Warehouse) -> None:
    two(wh)
    for task in ("semantic", "panoptic"):
        add(wh, task, [], task=task)
    add(wh, "half", [], split="val")
    small.add_dataset(wh, "others")
    small.add_run(wh, "foreign", [[0.5]], dataset="others")
    small.begin(wh, "cut", 1)
    for task in ("semantic", "panoptic"):
        with pytest.raises(RunError, match=f"run '{task}' holds the regions of a {task} model: only boxes"):
            fuse(config(wh, "a", task))
    with pytest.raises(RunError, match="run 'a' is of shapes@v2, split all, run 'half' of shapes@v2, split val"):
        fuse(config(wh, "a", "half"))
    with pytest.raises(RunError, match="run 'foreign' of others@v2"):
        fuse(config(wh, "a", "foreign"))
    with pytest.raises(RunError, match="run 'cut' is not complete"):
        fuse(config(wh, "a", "cut"))
    with pytest.raises(RunError, match="there is no run 'c'"):
        fuse(config(wh, "a", "c"))
    assert "both" not in runs.names(wh)


def test_senseless_settings(wh: Warehouse) -> None:
    with pytest.raises(ConfigError, match="runs to fuse: a; expected two or more"):
        config(wh, "a")
    with pytest.raises(ConfigError, match="expected two or more, each once"):
        config(wh, "a", "a", "b")
    with pytest.raises(ConfigError, match="1 weights for 2 runs"):
        config(wh, weights=(1.0,))
    with pytest.raises(ConfigError, match=r"weights are 1\.0, 0\.0: each must be above 0"):
        config(wh, weights=(1.0, 0.0))
    with pytest.raises(ConfigError, match=r"iou is 1\.0"):
        config(wh, iou=1.0)


def test_the_command(wh: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    two(wh)
    command = ["fuse", "a", "b", "--run", "both", "--weights", "2", "1", "--warehouse", wh.root, "--json"]
    build_app()(command, result_action="return_value")
    assert '"predictions": 3' in capsys.readouterr().out
    assert runs.open_committed(wh, "both").settings["weights"] == [2.0, 1.0]
