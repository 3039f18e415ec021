"""Several processes ingest splits of one dataset at once: none is lost, on disk and on a real S3 server."""

from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from PIL import Image

from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import Warehouse

ROUNDS = 5
SPLITS = ("train", "val", "test")


def take_in(barrier: Barrier, warehouse: str, images: str, split: str) -> None:
    """Ingest one split into each of several datasets, at the same moment as the other processes."""
    with open_executor() as executor:
        for number in range(ROUNDS):
            barrier.wait(120)
            ingest(IngestConfig(f"set{number}", images=images, split=split, warehouse=warehouse), executor)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["disk", pytest.param("s3", marks=pytest.mark.s3)])
def test_splits_ingested_at_once_are_all_kept(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    root = str(tmp_path / "warehouse") if kind == "disk" else f"{request.getfixturevalue('s3').uri}/warehouse"
    for split in SPLITS:
        (tmp_path / split).mkdir()
        Image.new("RGB", (8, 8), split.encode()[0]).save(tmp_path / split / f"{split}.png")
    Warehouse(root).create()
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(SPLITS))
    ingests = [context.Process(target=take_in, args=(barrier, root, str(tmp_path / s), s)) for s in SPLITS]
    for process in ingests:
        process.start()
    for process in ingests:
        process.join(240)
    assert [process.exitcode for process in ingests] == [0] * len(SPLITS)
    for number in range(ROUNDS):
        held = Dataset.open(Warehouse(root), f"set{number}").images
        assert sorted(zip(held["file_name"].to_pylist(), held["split"].to_pylist(), strict=True)) == sorted(
            (f"{split}.png", split) for split in SPLITS
        )
