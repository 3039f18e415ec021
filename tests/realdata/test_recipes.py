"""The shipped recipes on the real data that they are made for: minutes each, on two cores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, predict
from shardlens.pipeline.query import query
from shardlens.pipeline.train import train
from shardlens.pipeline.training import recipes

pytestmark = [pytest.mark.realdata, pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def warehouse(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("recipes")
    root, isbi = str(folder / "warehouse"), folder / "isbi"
    for split in ("train", "val"):
        membranes_as_class(realdata / "isbi-membrane" / split, isbi / split)
    with open_executor() as executor:
        ingest(IngestConfig("bccd", images=str(realdata / "bccd/BCCD"), warehouse=root), executor)
        ingest(
            IngestConfig("dsb2018-200", images=str(realdata / "dsb2018-200"), classes="nucleus", warehouse=root),
            executor,
        )
        ingest(IngestConfig("isbi-membrane", images=str(isbi), classes="membrane", warehouse=root), executor)
    return root


def membranes_as_class(source: Path, folder: Path) -> None:
    """The same images with masks where membrane is 1 and cell 0: published, cells are white and membranes black."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for image in (source / "images").glob("*.png"):
        (folder / "images" / image.name).write_bytes(image.read_bytes())
    for mask in (source / "masks").glob("*.png"):
        Image.fromarray((np.asarray(Image.open(mask)) < 128).astype(np.uint8)).save(folder / "masks" / mask.name)


def scored(warehouse: str, recipe: str, run: str, split: str, metric: str, **given: Any) -> float:
    """Train by a recipe, predict a split, and score it by the evaluation of the main job."""
    config = replace(recipes.find(recipe), run=run, warehouse=warehouse, **given)
    report = train(config)
    network = NetworkConfig(weights=report.checkpoint)
    with open_executor() as executor:
        predict(
            PredictConfig(config.dataset, network=network, run=f"{run}-{split}", split=split, warehouse=warehouse),
            executor,
        )
        evaluate(EvaluateConfig(f"{run}-{split}", warehouse=warehouse), executor)
    sql = f"SELECT value FROM metrics WHERE run = '{run}-{split}' AND metric = '{metric}' AND category IS NULL"
    ((value,),) = zip(*query(warehouse, sql).to_pydict().values(), strict=True)
    print(f"{run}: {metric} {value:.4f} on {split}, {report.seconds:.0f} s, {report.images_per_second:.1f} images/s")
    return float(value)


@pytest.fixture(scope="module")
def backbone(realdata: Path) -> str:
    return str(realdata.parent / "weights/mobilenet_v2-b0353104.pth")


def test_blood_cells(warehouse: str, backbone: str) -> None:
    assert scored(warehouse, "bccd", "bccd", "test", "AP50", init=backbone) >= 0.80


def test_nuclei(warehouse: str) -> None:
    assert scored(warehouse, "dsb2018-200", "nuclei", "val", "Dice") >= 0.88


@pytest.mark.parametrize("elastic", [10.0, 0.0])
def test_membranes(warehouse: str, elastic: float) -> None:
    run = "membranes" if elastic else "membranes-plain"
    assert scored(warehouse, "isbi-membrane", run, "val", "Dice", elastic=elastic) >= 0.75


def test_a_backbone_from_imagenet_beats_a_random_one_in_four_epochs(warehouse: str, backbone: str) -> None:
    small = (*(o for o in recipes.LIGHT_FCOS if "size" not in o), "min_size=224", "max_size=320")
    short: dict[str, Any] = {"epochs": 4, "plain_epochs": 1, "option": small}
    tuned = scored(warehouse, "bccd", "short-tuned", "test", "AP50", init=backbone, **short)
    extracted = scored(
        warehouse, "bccd", "short-frozen", "test", "AP50", init=backbone, transfer="feature-extractor", **short
    )
    scratch = scored(
        warehouse, "bccd", "short-scratch", "test", "AP50", init=None, transfer="scratch", backbone_factor=1.0, **short
    )
    assert min(tuned, extracted) > scratch + 0.1
