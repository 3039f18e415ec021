"""Ingest of the real data sets, figure by figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shardlens.pipeline import masks
from shardlens.pipeline.annotations.coco import to_coco
from tests.annotations.tiny import rows, take

pytestmark = pytest.mark.realdata


def kinds(report: Any) -> dict[str, int]:
    return {problem.kind: problem.count for problem in report.problems}


def test_coco_val_and_train_survive_the_round_trip(tmp_path: Path, realdata: Path) -> None:
    root = realdata / "coco2017-subset"
    for split, *counts in (("train", 209, 1899, 18), ("val", 206, 1786, 21)):
        file = root / "annotations" / f"instances_{split}2017.json"
        report, dataset = take(tmp_path, str(root / f"{split}2017"), str(file), split=split)
        assert [report.images, report.annotations, report.crowds, report.categories] == [*counts, 80]
        assert report.problems == ()
        found = {row["annotation_id"]: to_coco(row) for row in dataset.annotations.to_pylist()}
        document = json.loads(file.read_bytes())
        assert all(found[given["id"]] == given for given in document["annotations"])
        sizes = {(each["id"], each["width"], each["height"]) for each in document["images"]}
        assert sizes <= set(rows(dataset.images, "image_id", "width", "height"))
    assert report.splits == {"train": 209, "val": 206}


def test_coco_masks_are_drawn_as_pycocotools_draws_them(
    tmp_path: Path, realdata: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pycocotools.coco import COCO

    root = realdata / "coco2017-subset"
    file = root / "annotations" / "instances_val2017.json"
    _, dataset = take(tmp_path, str(root / "val2017"), str(file))
    reference = COCO(str(file))
    for row in dataset.annotations.to_pylist():
        drawn = reference.annToRLE(reference.anns[row["annotation_id"]])
        assert row["segmentation"] == {"size": drawn["size"], "counts": drawn["counts"].decode()}


def test_bccd_has_its_splits_and_two_flat_boxes(tmp_path: Path, realdata: Path) -> None:
    report, dataset = take(tmp_path, str(realdata / "bccd" / "BCCD"))
    assert (report.images, report.annotations, report.categories) == (364, 4888, 3)
    assert report.splits == {"test": 72, "train": 205, "val": 87}
    assert kinds(report) == {"degenerate-box": 2}
    assert sum(bool(flags) for flags in dataset.annotations["flags"].to_pylist()) == 2
    assert dataset.categories["name"].to_pylist() == ["Platelets", "RBC", "WBC"]


def test_voc_boxes_are_those_of_the_same_truth_in_coco_form(tmp_path: Path, realdata: Path) -> None:
    root = realdata / "voc2012-100"
    report, dataset = take(tmp_path, str(root / "JPEGImages"), str(root / "Annotations"))
    assert (report.images, report.annotations, report.categories, report.problems) == (100, 273, 20, ())
    assert sum(dataset.annotations["ignore"].to_pylist()) == 38
    names = dict(rows(dataset.images, "image_id", "file_name"))
    found = [
        (names[i], label, *box.values()) for i, label, box in rows(dataset.annotations, "image_id", "category", "bbox")
    ]
    document = json.loads((root / "formats" / "coco_format_v1" / "instances_default.json").read_bytes())
    files = {each["id"]: each["file_name"] for each in document["images"]}
    labels = {each["id"]: each["name"] for each in document["categories"]}
    given = [(files[a["image_id"]], labels[a["category_id"]], *a["bbox"]) for a in document["annotations"]]
    assert sorted(found) == sorted(given)


def test_nuclei_are_one_instance_an_id(tmp_path: Path, realdata: Path) -> None:
    root = realdata / "dsb2018-200"
    report, dataset = take(tmp_path, str(root), classes="nucleus")
    assert (report.images, report.splits, report.problems) == (200, {"train": 160, "val": 40}, ())
    masks_of = sorted(root.glob("*/masks/*.png"))
    assert report.annotations == sum(np.unique(np.asarray(Image.open(mask))).size - 1 for mask in masks_of) == 5685
    assert set(rows(dataset.annotations, "kind", "category")) == {("instance", "nucleus")}


def test_membranes_are_one_region_an_image(tmp_path: Path, realdata: Path) -> None:
    root = realdata / "isbi-membrane"
    report, dataset = take(tmp_path, str(root))
    assert (report.images, report.annotations, report.splits, report.problems) == (30, 30, {"train": 24, "val": 6}, ())
    row = dataset.annotations.slice(0, 1).to_pylist()[0]
    pixels = masks.decode(masks.Rle(*row["segmentation"]["size"], row["segmentation"]["counts"]))
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(root / "train" / "masks" / "00.png")) == 255)
