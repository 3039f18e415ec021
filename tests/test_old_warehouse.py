"""A warehouse that version 0.1.0 wrote is read, scored and resumed.

`warehouse/version_0_1_0.tar.xz` holds it with its drawn images, which lay in the bucket `shardlens-old`: the committed runs
`whole` and `boxes` (scored), `unfinished`, which lacks two of four shards, and the training runs `trained` and `paused`.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import s3fs

from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, PredictReport, predict
from shardlens.pipeline.query import query
from shardlens.pipeline.train import TrainConfig, train
from tests.conftest import Bucket

pytestmark = [pytest.mark.s3, pytest.mark.slow]

OPTIONS = ("width=2", "depth=2")
NETWORK = NetworkConfig(model="unet", option=OPTIONS, weights="random", labels="s3://shardlens-old/labels.txt")


@pytest.fixture
def warehouse(s3: Bucket, tmp_path: Path) -> str:
    """The warehouse in a folder of its own; its images in the bucket that their URIs name."""
    with tarfile.open(Path(__file__).parent / "warehouse" / "version_0_1_0.tar.xz") as packed:
        packed.extractall(tmp_path, filter="data")
    server = s3.server
    store = s3fs.S3FileSystem(
        key=server.access_key, secret=server.secret_key, endpoint_url=server.endpoint, skip_instance_cache=True
    )
    if not store.exists("shardlens-old"):
        store.mkdir("shardlens-old")
        store.put(str(tmp_path / "shapes"), "shardlens-old/shapes", recursive=True)
        store.put(str(tmp_path / "labels.txt"), "shardlens-old/labels.txt")
    return str(tmp_path / "warehouse")


def again(warehouse: str, run: str) -> PredictReport:
    """The command that version 0.1.0 was given."""
    config = PredictConfig("shapes", network=NETWORK, run=run, shard_size=2, precision="fp32", warehouse=warehouse)
    return predict(config, LocalExecutor())


def rows(warehouse: str, sql: str) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in query(warehouse, sql).to_pylist()]


def test_every_table_is_read(warehouse: str) -> None:
    count = "SELECT run, count(*) FROM predictions GROUP BY run ORDER BY run"
    assert rows(warehouse, count) == [("boxes", 635), ("whole", 8)]
    assert rows(warehouse, "SELECT status, count(*) FROM outcomes GROUP BY status") == [("ok", 16)]
    assert rows(warehouse, "SELECT dataset, count(*) FROM images GROUP BY ALL ORDER BY 1") == [
        ("masks", 4),
        ("shapes", 8),
    ]
    assert rows(
        warehouse, "SELECT count(*) FROM metrics WHERE run = 'boxes' AND metric = 'AP50' AND category IS NULL"
    ) == [(1,)]
    assert rows(warehouse, "SELECT run, count(*) FROM training GROUP BY run") == [("trained", 1)]
    joined = "SELECT count(*) FROM predictions JOIN images USING (dataset, image_id) WHERE run = 'whole'"
    assert rows(warehouse, joined) == [(8,)]


def test_a_run_is_resumed_by_its_own_command(warehouse: str) -> None:
    report = again(warehouse, "unfinished")
    assert (report.images, report.resumed_shards, report.quarantined) == (8, 2, 0)
    same = (
        "SELECT count(*) FROM predictions a JOIN predictions b USING (image_id, rank, category, area) "
        "WHERE a.run = 'whole' AND b.run = 'unfinished'"
    )
    assert rows(warehouse, same) == [(8,)]


def test_a_committed_run_has_nothing_left_to_do(warehouse: str) -> None:
    commit = Path(warehouse, "runs", "whole", "commit.json")
    before = commit.read_bytes()
    assert again(warehouse, "whole").resumed_shards == 4
    assert commit.read_bytes() == before


def test_a_run_is_scored_to_the_same_figures(warehouse: str) -> None:
    figures = "SELECT task, metric, category, iou, area, value FROM metrics WHERE run = 'boxes' ORDER BY ALL"
    before = rows(warehouse, figures)
    assert evaluate(EvaluateConfig("boxes", warehouse=warehouse), LocalExecutor()).images == 8
    assert rows(warehouse, figures) == before


def test_training_runs_are_reported_and_resumed(warehouse: str) -> None:
    asked = {"model": "unet", "option": OPTIONS, "batch_size": 4, "precision": "fp32", "warehouse": warehouse}
    assert train(TrainConfig("masks", **asked, epochs=1, run="trained")).steps == 1
    report = train(TrainConfig("masks", **asked, epochs=2, run="paused"))
    assert (report.steps, report.resumed_from) == (2, 1)
