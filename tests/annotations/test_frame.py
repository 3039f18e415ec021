"""Annotations drawn on upright images, as viewers show them: in the tables they lie on the stored pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from shardlens.pipeline import masks, storage
from shardlens.pipeline.annotations.frame import choose
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.executors.base import no_progress
from shardlens.pipeline.export_coco import export_coco, export_dataset
from shardlens.pipeline.import_coco import ImportConfig, import_coco
from shardlens.pipeline.ingest import IngestConfig, IngestReport
from shardlens.pipeline.masks.rle import Rle
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.annotations.tiny import coco, put, put_coco, take, voc_object, xml
from tests.drawn_images import encode, rotated_jpeg

WIDTH, HEIGHT = 60, 40
"""Of the stored image."""
BOX = [10.13, 4.0, 20.0, 7.35]
POLYGON = [10.13, 4.0, 30.1, 4.0, 30.1, 11.3, 12.0, 11.3]


def stored_pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def upright_size(orientation: int) -> tuple[int, int]:
    return (HEIGHT, WIDTH) if orientation >= 5 else (WIDTH, HEIGHT)


def document(orientation: int, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """A COCO document of an image a.jpg whose annotations, a polygon, RLE and box, are in the frame of `size`."""
    wide, high = size or upright_size(orientation)
    mask = np.zeros((high, wide), np.uint8)
    mask[3:9, 5:25] = 1
    rle = masks.encode(mask)
    base = {"image_id": 1, "category_id": 1, "iscrowd": 0, "area": 100.0, "bbox": BOX}
    return coco(
        [{"id": 1, "file_name": "a.jpg", "width": wide, "height": high}],
        [
            {**base, "id": 1, "segmentation": [POLYGON]},
            {**base, "id": 2, "segmentation": {"size": [high, wide], "counts": rle.counts}},
            {**base, "id": 3, "segmentation": []},
        ],
    )


def taken(tmp_path: Path, orientation: int, found: dict[str, Any], **config: Any) -> tuple[IngestReport, Dataset]:
    images = put(tmp_path / "images", {"a.jpg": rotated_jpeg(stored_pixels(), orientation)})
    return take(tmp_path, images, put_coco(tmp_path, found), **config)


def upright_again(mask_hw: np.ndarray, orientation: int) -> np.ndarray:
    """As Pillow turns an image of that orientation."""
    image = Image.fromarray(mask_hw)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_boxes_and_masks_of_the_upright_frame_lie_on_the_stored_pixels(tmp_path: Path, orientation: int) -> None:
    report, dataset = taken(tmp_path, orientation, document(orientation), frame="upright")
    assert (report.frame, report.problems) == ("upright", ())
    assert "1 of 1 images carry an EXIF orientation" in report.notes[0]
    assert dataset.images.select(["width", "height", "orientation"]).to_pylist() == [
        {"width": WIDTH, "height": HEIGHT, "orientation": orientation}
    ]
    wide, high = upright_size(orientation)
    drawn = [masks.decode(masks.from_polygons([POLYGON], high, wide)), np.zeros((high, wide), np.uint8)]
    drawn[1][3:9, 5:25] = 1
    rows = dataset.annotations.to_pylist()
    for row, expected in zip(rows, drawn, strict=False):
        stored = masks.decode(Rle(*row["segmentation"]["size"], row["segmentation"]["counts"]))
        assert np.array_equal(upright_again(stored, orientation), expected)
    full = np.zeros((high, wide), np.uint8)
    full[4:11, 11:30] = 1  # whole pixels within the box
    ys, xs = np.nonzero(upright_again_inverse(full, orientation))
    x, y, w, h = rows[2]["bbox"].values()
    assert (x <= xs.min(), y <= ys.min()) == (True, True)
    assert (xs.max() + 1 <= x + w + 1e-9, ys.max() + 1 <= y + h + 1e-9) == (True, True)
    assert sorted((w, h)) == sorted(BOX[2:])


def upright_again_inverse(mask_hw: np.ndarray, orientation: int) -> np.ndarray:
    """The stored mask that Pillow turns into `mask_hw`."""
    return upright_again(mask_hw, {6: 8, 8: 6}.get(orientation, orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_export_gives_back_what_came(tmp_path: Path, orientation: int) -> None:
    came = document(orientation)
    _, dataset = taken(tmp_path, orientation, came, frame="upright")
    export_dataset(dataset, str(tmp_path / "out.json"))
    back = json.loads((tmp_path / "out.json").read_text())
    assert back["images"] == came["images"]
    assert back["annotations"] == came["annotations"]


@pytest.mark.parametrize("orientation", [3, 5, 6])
def test_results_made_elsewhere_are_in_the_frame_of_the_annotations(tmp_path: Path, orientation: int) -> None:
    came = document(orientation)
    _, dataset = taken(tmp_path, orientation, came, frame="upright")
    results = [
        {"image_id": 1, "category_id": 1, "score": 0.5, "bbox": BOX, "segmentation": row["segmentation"]}
        for row in came["annotations"][1:2]
    ]
    where = put(tmp_path, {"results.json": json.dumps(results).encode()}) + "/results.json"
    import_coco(ImportConfig("set", predictions=where, run="r", warehouse=str(tmp_path / "warehouse")), no_progress)
    record = runs.open_committed(Warehouse(str(tmp_path / "warehouse")), "r")
    export_coco(record, str(tmp_path / "back.json"))
    assert json.loads((tmp_path / "back.json").read_text()) == results
    truth = dataset.annotations.to_pylist()[1]
    row = tables.from_bytes(storage.read(record.prediction_parts()[0])).to_pylist()[0]
    assert row["bbox"] == truth["bbox"]
    assert row["segmentation"] == truth["segmentation"]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_sizes_tell_the_frame(tmp_path: Path, orientation: int) -> None:
    upright, _ = taken(tmp_path, orientation, document(orientation))
    assert (upright.frame, upright.problems) == ("upright", ())
    assert "upright image: the sizes given for 1 of them say so" in str(upright)
    stored, dataset = taken(tmp_path, orientation, document(orientation, (WIDTH, HEIGHT)), name="other")
    assert (stored.frame, stored.problems) == ("stored", ())
    assert "orientation" not in dataset.images.schema.names
    assert [row["bbox"]["x"] for row in dataset.annotations.to_pylist()] == [BOX[0]] * 3


def test_where_no_size_tells_the_report_says_what_was_taken(tmp_path: Path) -> None:
    report, dataset = taken(tmp_path, 3, document(3))
    assert report.frame == "upright"
    assert (
        "no size tells. If they were drawn on the stored image (before it is turned), ingest with --frame stored"
        in str(report)
    )
    assert dataset.document["sources"][0]["frame"] == "upright"
    asked, _ = taken(tmp_path, 3, document(3), frame="stored", name="other")
    assert asked.frame == "stored"


def test_most_sizes_decide_and_the_others_are_problems(tmp_path: Path) -> None:
    orientations = np.array([6, 6, 8, 3, 1])
    header = np.array([[60, 40]] * 5)
    told = np.array([[40, 60], [40, 60], [60, 40], [60, 40], [60, 40]])
    choice = choose("auto", orientations, header, told)
    assert choice.frame == "upright"
    assert "4 of 5 images" in choice.note
    assert "for 2 of them say so, those of 1 do not" in choice.note


def test_images_without_orientation_need_no_frame(tmp_path: Path) -> None:
    report, dataset = taken(tmp_path, 1, document(1), frame="upright")
    assert (report.notes, "orientation" in dataset.images.schema.names) == ((), False)
    with pytest.raises(ConfigError, match="frame 'sideways': expected auto, upright, stored"):
        IngestConfig("a", images="b", frame="sideways")  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_other_formats_carry_orientations_too(tmp_path: Path, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    name = f"a.{form.lower()}"
    images = put(tmp_path / "images", {name: encode(Image.fromarray(stored_pixels()), form, exif=exif)})
    notes = put(
        tmp_path / "notes", {"a.xml": xml(name, voc_object("cat", (2, 11, 12, 31)), width=HEIGHT, height=WIDTH)}
    )
    report, dataset = take(tmp_path, images, notes)
    assert (report.frame, report.problems) == ("upright", ())
    assert dataset.images["orientation"].to_pylist() == [6]
    assert dataset.annotations["bbox"].to_pylist() == [{"x": 11.0, "y": 28.0, "width": 20.0, "height": 10.0}]


def test_splits_of_both_frames_stand_in_one_dataset(tmp_path: Path) -> None:
    turned = document(6)
    taken(tmp_path, 6, turned, split="train")
    images = put(tmp_path / "others", {"b.jpg": encode(stored_pixels())})
    other = coco(
        [{"id": 2, "file_name": "b.jpg", "width": WIDTH, "height": HEIGHT}],
        [{"id": 9, "image_id": 2, "category_id": 1, "bbox": BOX, "area": 1.0, "iscrowd": 0, "segmentation": []}],
    )
    _, dataset = take(tmp_path, images, put_coco(tmp_path, other, "b.json"), split="val")
    assert dataset.images["orientation"].to_pylist() == [6, None]
    export_dataset(dataset, str(tmp_path / "out.json"))
    back = json.loads((tmp_path / "out.json").read_text())
    assert back["annotations"] == [*turned["annotations"], *other["annotations"]]
