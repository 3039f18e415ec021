"""An image whose annotation is missing or unreadable is not one without objects: it is neither scored nor trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shardlens.models.spec import InputRule
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.evaluate import EvaluateConfig, Evaluation, evaluate
from shardlens.pipeline.import_coco import ImportConfig, import_coco
from shardlens.pipeline.metrics.partial_store import outcomes
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.data import TrainingData
from shardlens.pipeline.training.prepare import prepare
from shardlens.pipeline.warehouse import runs
from shardlens.pipeline.warehouse.datasets import Dataset, annotated
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.annotations.test_label_maps import blocks
from tests.annotations.tiny import HEIGHT, WIDTH, Here, jpeg, png, put, take, voc_object, xml

BOX = {"category_id": 1, "bbox": [1, 2, 10, 20], "score": 1.0}


@pytest.fixture
def voc(tmp_path: Path) -> Dataset:
    """Three images: one with a box, one without XML, one with a damaged XML; a fourth is annotated as empty."""
    put(tmp_path / "voc", {f"JPEGImages/{name}.jpg": jpeg(i) for i, name in enumerate("abcd")})
    files = {"a.xml": xml("a.jpg", voc_object("cat")), "c.xml": b"<annotation>", "d.xml": xml("d.jpg")}
    put(tmp_path / "voc", {f"Annotations/{name}": data for name, data in files.items()})
    return take(tmp_path, str(tmp_path / "voc"))[1]


def scored(tmp_path: Path, entries: list[dict[str, object]], unannotated: bool = False) -> Evaluation:
    """Import results for the dataset of the test and score them."""
    put(tmp_path, {"results.json": json.dumps(entries).encode()})
    warehouse = str(tmp_path / "warehouse")
    task = "semantic" if "bbox" not in entries[0] else "auto"
    source = str(tmp_path / "results.json")
    import_coco(ImportConfig("set", predictions=source, run="r", task=task, warehouse=warehouse))
    return evaluate(EvaluateConfig("r", unannotated=unannotated, warehouse=warehouse), Here())


def test_only_images_with_known_annotations_are_scored(tmp_path: Path, voc: Dataset) -> None:
    entries = [{**BOX, "image_id": image_id, "score": score} for image_id, score in ((1, 0.5), (2, 0.8), (3, 0.9))]
    evaluation = scored(tmp_path, entries)
    means = {(task, metric): value for task, metric, value in evaluation.summary()}
    assert means["bbox", "AP"] == pytest.approx(1.0)
    assert (evaluation.images, evaluation.left_out, means["images", "left out"]) == (2, 2, 2.0)
    assert evaluation.notes[0].startswith("2 images of the run were not scored, because their annotations are missing")
    asked = scored(tmp_path, entries, unannotated=True)  # the stored partials of the first are of other images
    assert (asked.images, asked.left_out) == (4, 0)
    assert asked.summary()[0][2] == pytest.approx(1 / 3, abs=0.01)
    assert scored(tmp_path, entries).metrics.equals(evaluation.metrics)


def test_a_run_of_such_images_alone_is_undefined(tmp_path: Path, voc: Dataset) -> None:
    unknown = [row["image_id"] for row in voc.images.to_pylist() if row["flags"]]
    assert unknown == [2, 3]
    evaluation = scored(tmp_path, [{**BOX, "image_id": 2}])
    record = runs.open_committed(Warehouse(str(tmp_path / "warehouse")), "r")
    assert sum(rows.num_rows for rows in outcomes(record)) == evaluation.images + evaluation.left_out == 4


def test_training_leaves_them_out_and_reports_how_many(tmp_path: Path, voc: Dataset) -> None:
    base = {"dataset": "set", "model": "fcos_small", "option": ("width=8", "min_size=64"), "epochs": 1}
    base |= {"run": "r", "batch_size": 1, "warehouse": str(tmp_path / "warehouse")}
    job = prepare(TrainConfig(**base))
    assert job.left_out == {"images without known annotations": 2}
    assert any(
        "2 of the 4 images to train on have missing or unreadable annotations (b.jpg, c.jpg)" in n for n in job.notes
    )
    data = TrainingData(job, InputRule())
    assert sorted(i for share in data.epoch(0, 0, 1) for i in share.image_ids) == [1, 4]
    asked = prepare(TrainConfig(**base, unannotated=True))
    assert (asked.images, asked.left_out) == (4, {})
    assert asked.fingerprint != job.fingerprint
    assert "unannotated" not in asked.settings  # as before there was the option
    with pytest.raises(DatasetError, match=r"refused by --strict.*(?s:.*)2 of the 4 images to train on"):
        prepare(TrainConfig(**base, strict=True))


def test_one_mask_of_another_size_costs_its_image_alone(tmp_path: Path) -> None:
    put(tmp_path / "set" / "images", {f"{name}.jpg": jpeg(i) for i, name in enumerate("ab")})
    right, wrong = blocks(1), blocks(1)[:, : WIDTH // 2]
    put(tmp_path / "set" / "masks", {"a.png": png(right), "b.png": png(wrong)})
    _, dataset = take(tmp_path, str(tmp_path / "set"))
    assert dataset.images["flags"].to_pylist() == [[], ["size-mismatch", "mask-of-another-size"]]
    assert annotated(dataset.images)["file_name"].to_pylist() == ["images/a.jpg"]
    rle = dataset.annotations["segmentation"][0].as_py()
    assert rle["size"] == [HEIGHT, WIDTH]
    entries: list[dict[str, object]] = [{"image_id": i, "category_id": 1, "segmentation": rle} for i in (1, 2)]
    evaluation = scored(tmp_path, entries)
    assert evaluation.summary()[0] == ("semantic", "Dice", 1.0)
    assert (evaluation.images, evaluation.left_out) == (1, 1)
