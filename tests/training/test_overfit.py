"""Every trainable network learns eight images by heart, through ingest, training, prediction and evaluation."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from shardlens.flows.synthetic_shapes import draw_dataset
from shardlens.models import MODELS, find
from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, predict
from shardlens.pipeline.train import TrainConfig, train
from tests.training.overfits import OVERFITS, Overfit

WANTED = {
    "detection": ("bbox", "AP50", 0.90),
    "instance": ("segm", "AP50", 0.90),
    "semantic": ("semantic", "Dice", 0.95),
}
IMAGES, SIDE = 8, 128


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight images of one to five shapes, and eight of exactly two."""
    folder = tmp_path_factory.mktemp("eight")
    place = str(folder / "warehouse")
    draw_dataset(folder / "any", {"train": IMAGES}, size=SIDE)
    draw_dataset(folder / "many", {"train": 8 * IMAGES}, size=SIDE)
    keep_pairs(folder / "many", folder / "two")
    with open_executor() as executor:
        for name in ("any", "two"):
            images, truth = str(folder / name / "train/images"), str(folder / name / "instances_train.json")
            ingest(IngestConfig(name, images=images, annotations=truth, split="train", warehouse=place), executor)
        classes = "disc,square,triangle"
        ingest(
            IngestConfig("masks", images=str(folder / "any"), format="masks", classes=classes, warehouse=place),
            executor,
        )
    return place


def keep_pairs(source: Path, folder: Path) -> None:
    """Keep the first images that have exactly two shapes."""
    document = json.loads((source / "instances_train.json").read_text())
    owners = [annotation["image_id"] for annotation in document["annotations"]]
    kept = [image for image in document["images"] if owners.count(image["id"]) == 2][:IMAGES]
    assert len(kept) == IMAGES
    ids = {image["id"] for image in kept}
    document |= {"images": kept, "annotations": [a for a in document["annotations"] if a["image_id"] in ids]}
    (folder / "train/images").mkdir(parents=True)
    for image in kept:
        shutil.copy(source / "train/images" / image["file_name"], folder / "train/images")
    (folder / "instances_train.json").write_text(json.dumps(document))


def dataset(task: str, overfit: Overfit) -> str:
    if task == "semantic":
        return "masks"
    return "any" if overfit.objects is None else "two"


def test_every_trainable_detector_is_overfitted() -> None:
    learning = {name for name, spec in MODELS.items() if spec.trainable and spec.task in {"detection", "instance"}}
    assert learning - OVERFITS.keys() == {"darknet"}  # which is whatever its .cfg says


def test_no_segmenter_is_left_out() -> None:
    known = {name for name, spec in MODELS.items() if spec.task == "semantic" and spec.trainable}
    deeper = {"fcn_resnet101", "deeplabv3_resnet101"}  # of the code of those with 50 layers
    assert known - set(OVERFITS) == deeper


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", list(OVERFITS))
def test_eight_images_are_learned_by_heart(warehouse: str, name: str) -> None:
    overfit, spec = OVERFITS[name], find(name)
    option = tuple(f"{key}={value}" for key, value in overfit.options.items())
    data = dataset(spec.task, overfit)
    quick = {"flip": False, "warehouse": warehouse, "run": f"{name}-training"}
    begun = time.monotonic()
    trained = train(TrainConfig(data, model=name, option=option, **{**quick, **overfit.training}))
    seconds = time.monotonic() - begun
    network = NetworkConfig(weights=trained.checkpoint)
    with open_executor() as executor:
        predict(PredictConfig(data, network=network, run=name, precision="fp32", warehouse=warehouse), executor)
        score = evaluate(EvaluateConfig(name, warehouse=warehouse), executor)
    task, metric, wanted = WANTED[spec.task]
    found = {(row[0], row[1]): row[2] for row in score.summary()}[(task, metric)]
    print(
        f"\n{name}: {metric} {found:.3f} after {trained.steps} steps, {seconds:.0f} s, loss {trained.losses['loss']:.4f}"
    )
    assert found >= wanted
