"""A small warehouse to train from: drawn shapes, 16 images of 64 pixels with boxes and masks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardlens.flows.synthetic_shapes import draw_dataset
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.training.config import TrainConfig

IMAGES = 16


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images, and the warehouse that they were taken into."""
    folder = tmp_path_factory.mktemp("shapes")
    warehouse = str(folder / "warehouse")
    with open_executor() as executor:
        for name, count in (("shapes", IMAGES), ("single", 1), ("pair", 2)):
            draw_dataset(folder / name, {"train": count}, size=64)
            images, annotations = str(folder / name / "train/images"), str(folder / name / "instances_train.json")
            ingest(
                IngestConfig(name=name, images=images, annotations=annotations, split="train", warehouse=warehouse),
                executor,
            )
        bare = IngestConfig(name="bare", images=str(folder / "pair/train/images"), format="none", warehouse=warehouse)
        ingest(bare, executor)
    return folder


@pytest.fixture
def warehouse(drawn: Path, tmp_path: Path) -> str:
    """A copy of the warehouse; the images lie where they were drawn."""
    shutil.copytree(drawn / "warehouse", tmp_path / "warehouse")
    return str(tmp_path / "warehouse")


@pytest.fixture
def config(warehouse: str) -> Callable[..., TrainConfig]:
    """Settings of a quick run; name those that matter."""

    def made(**given: Any) -> TrainConfig:
        quick = {"dataset": "shapes", "model": "fcos_small", "option": ("width=8", "min_size=64"), "epochs": 1}
        return TrainConfig(**{**quick, "run": "r", "warehouse": warehouse, **given})

    return made


@pytest.fixture
def folder(tmp_path: Path, warehouse: str) -> Path:
    """Images of the dataset `fragile`, six that may be damaged or removed."""
    draw_dataset(tmp_path / "fragile", {"train": 6}, size=32)
    images = tmp_path / "fragile" / "train" / "images"
    annotations = str(tmp_path / "fragile" / "instances_train.json")
    with open_executor() as executor:
        ingest(IngestConfig(name="fragile", images=str(images), annotations=annotations, warehouse=warehouse), executor)
    return images


SEMANTIC = {"model": "tests.training.plain_models:SEGMENTER", "option": ()}
FAILING = {"model": "tests.training.plain_models:FAILING", "flip": False}
