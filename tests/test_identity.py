"""Ids of images stay from version to version, and each is one image's for ever."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from shardlens.pipeline.errors import ConfigError, DatasetError
from shardlens.pipeline.export_coco import Chosen, export_coco, export_dataset
from shardlens.pipeline.import_coco import ImportConfig, import_coco
from shardlens.pipeline.ingest import refresh
from shardlens.pipeline.query import query
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import Warehouse
from shardlens.pipeline.warehouse.runs import open_committed
from tests.annotations.tiny import Here, box, coco, image, jpeg, put, put_coco, rows, take, tar

CATEGORIES = ((1, "cat"), (7, "dog"))


@pytest.fixture
def images(tmp_path: Path) -> str:
    return put(tmp_path / "images", {f"{name}.jpg": jpeg(i) for i, name in enumerate("bcd")})


def ids(dataset: Dataset) -> dict[str, int]:
    return dict(rows(dataset.images, "file_name", "image_id"))


def results(tmp_path: Path, entries: list[dict[str, Any]]) -> str:
    return put(tmp_path, {"results.json": json.dumps(entries).encode()}) + "/results.json"


def found(image_id: object, score: float = 0.5) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": 1, "bbox": [1, 2, 3, 4], "score": score}


def test_a_new_image_that_sorts_first_changes_no_other_id(tmp_path: Path, images: str) -> None:
    assert ids(take(tmp_path, images)[1]) == {"b.jpg": 1, "c.jpg": 2, "d.jpg": 3}
    import_coco(
        ImportConfig(
            "set", predictions=results(tmp_path, [found(2)]), run="first", warehouse=str(tmp_path / "warehouse")
        )
    )
    put(Path(images), {"a.jpg": jpeg(9)})
    assert ids(take(tmp_path, images)[1]) == {"a.jpg": 4, "b.jpg": 1, "c.jpg": 2, "d.jpg": 3}
    named = query(
        str(tmp_path / "warehouse"),
        "SELECT image_id, file_name FROM outcomes JOIN images USING (dataset, image_id) WHERE predictions > 0",
    )
    assert named.to_pylist() == [{"image_id": 2, "file_name": "c.jpg"}]
    alone = "SELECT file_name, dataset_version = version AS same FROM outcomes, (SELECT version FROM images LIMIT 1)"
    assert query(str(tmp_path / "warehouse"), alone)["same"].unique().to_pylist() == [False]
    kept = query(str(tmp_path / "warehouse"), "SELECT file_name, etag FROM outcomes")
    assert kept["file_name"].to_pylist() == ["b.jpg", "c.jpg", "d.jpg"]
    assert kept["etag"].null_count == 0


def test_an_id_of_a_removed_image_is_its_own_for_ever(tmp_path: Path, images: str) -> None:
    take(tmp_path, images)
    away = tmp_path / "d.jpg"
    shutil.move(f"{images}/d.jpg", away)
    report, dataset = take(tmp_path, images)
    assert (report.vanished, report.vanished_names) == (1, ("d.jpg",))
    assert "no longer there: 1 images (d.jpg)" in str(report)
    put(Path(images), {"a.jpg": jpeg(9)})
    assert ids(take(tmp_path, images)[1]) == {"a.jpg": 4, "b.jpg": 1, "c.jpg": 2}
    (Path(images) / "a.jpg").unlink()
    take(tmp_path, images)
    shutil.move(away, f"{images}/d.jpg")
    put(Path(images), {"e.jpg": jpeg(8)})
    report, dataset = take(tmp_path, images)
    assert ids(dataset) == {"b.jpg": 1, "c.jpg": 2, "d.jpg": 3, "e.jpg": 5}
    assert report.vanished == 0


def test_a_version_that_comes_back_knows_what_was_removed(tmp_path: Path, images: str) -> None:
    first, _ = take(tmp_path, images)
    put(Path(images), {"a.jpg": jpeg(9)})
    take(tmp_path, images)
    (Path(images) / "a.jpg").unlink()
    assert take(tmp_path, images)[0].version == first.version
    put(Path(images), {"aa.jpg": jpeg(7)})
    assert ids(take(tmp_path, images)[1])["aa.jpg"] == 5


def test_images_that_moved_are_known_by_their_content(tmp_path: Path, images: str) -> None:
    take(tmp_path, images)
    moved = put(tmp_path / "moved", {"a.jpg": jpeg(5), "b.jpg": jpeg(0), "c.jpg": jpeg(1), "d.jpg": jpeg(42)})
    _, dataset = take(tmp_path, moved)
    assert ids(dataset) == {"b.jpg": 1, "c.jpg": 2, "a.jpg": 4, "d.jpg": 5}
    _, dataset = take(tmp_path, put(tmp_path / "other", {"b.jpg": jpeg(1), "c.jpg": jpeg(0)}), split="val")
    assert not set(dataset.images.filter(pc.equal(dataset.images["split"], "val"))["image_id"].to_pylist()) & {1, 2}


def test_an_image_that_changes_its_split_keeps_its_id(tmp_path: Path) -> None:
    pictures = {"train/a.jpg": jpeg(1), "train/b.jpg": jpeg(2), "val/c.jpg": jpeg(3)}
    put(tmp_path / "set", pictures)
    for split in ("train", "val"):
        take(tmp_path, str(tmp_path / "set" / split), split=split)
    shutil.move(tmp_path / "set" / "train" / "b.jpg", tmp_path / "set" / "val" / "b.jpg")
    for split in ("train", "val"):
        _, dataset = take(tmp_path, str(tmp_path / "set" / split), split=split)
    assert rows(dataset.images, "image_id", "file_name", "split") == [
        (1, "a.jpg", "train"),
        (2, "b.jpg", "val"),
        (3, "c.jpg", "val"),
    ]


def test_members_of_tars_are_known_by_tar_and_name(tmp_path: Path) -> None:
    folder = put(tmp_path / "tars", {"x.tar": tar({"1.jpg": jpeg(1), "2.jpg": jpeg(2)})})
    assert ids(take(tmp_path, folder)[1]) == {"1.jpg": 1, "2.jpg": 2}
    put(Path(folder), {"x.tar": tar({"0.jpg": jpeg(0), "2.jpg": jpeg(2), "1.jpg": jpeg(5)})})
    assert ids(take(tmp_path, folder)[1]) == {"0.jpg": 3, "1.jpg": 1, "2.jpg": 2}
    (Path(folder) / "x.tar").unlink()
    put(Path(folder), {"y.tar": tar({"1.jpg": jpeg(8), "2.jpg": jpeg(2)})})
    assert ids(take(tmp_path, folder)[1]) == {"1.jpg": 4, "2.jpg": 2}


def test_a_touched_file_changes_nothing_and_a_replaced_one_its_etag(tmp_path: Path, images: str) -> None:
    first, before = take(tmp_path, images)
    os.utime(f"{images}/b.jpg", ns=(1, 1))
    again, _ = take(tmp_path, images)
    assert again.version == first.version
    put(Path(images), {"b.jpg": jpeg(77)})
    replaced, dataset = take(tmp_path, images)
    assert replaced.version != first.version
    assert ids(dataset) == ids(before)
    changed = [a != b for a, b in zip(*(rows(d.images, "etag") for d in (before, dataset)), strict=True)]
    assert changed == [True, False, False]
    assert rows(dataset.images, "bytes") == [((Path(images) / f"{name}.jpg").stat().st_size,) for name in "bcd"]


def test_an_id_that_a_coco_file_gives_to_another_image_is_not_used(tmp_path: Path, images: str) -> None:
    first = coco([image(1, "b.jpg"), image(2, "c.jpg")], [box(1, 1), box(2, 2)])
    report, _ = take(tmp_path, images, put_coco(tmp_path, first))
    assert not any("other ids" in note for note in report.notes)
    again = coco([image(1, "d.jpg"), image(2, "b.jpg"), image(3, "c.jpg")], [box(1, 1), box(2, 3)])
    report, dataset = take(tmp_path, images, put_coco(tmp_path, again))
    assert rows(dataset.images, "image_id", "file_name", "source_id") == [
        (1, "b.jpg", "2"),
        (2, "c.jpg", "3"),
        (3, "d.jpg", "1"),
    ]
    assert rows(dataset.annotations, "annotation_id", "image_id") == [(2, 2), (1, 3)]
    assert any(note.startswith("3 of 3 images have other ids in the dataset than in the file") for note in report.notes)
    assert take(tmp_path, images, put_coco(tmp_path, again))[0].version == report.version


@pytest.fixture
def roboflow(tmp_path: Path) -> Dataset:
    """Splits that count images and annotations from 0 each."""
    for number, split in enumerate(("train", "valid")):
        folder = put(tmp_path / split, {f"{i}.jpg": jpeg(10 * number + i) for i in range(3)})
        listed = coco([image(i, f"{i}.jpg") for i in range(3)], [box(i, i, [1 + number, 2, 3, 4]) for i in range(3)])
        _, dataset = take(tmp_path, folder, put_coco(tmp_path, listed, f"{split}.json"), split=split)
    return dataset


def test_splits_that_count_from_zero_are_kept_apart(tmp_path: Path, roboflow: Dataset) -> None:
    assert rows(roboflow.images, "image_id", "source_id", "file_name", "split") == [
        *((i, str(i), f"{i}.jpg", "train") for i in range(3)),
        *((i + 3, str(i), f"{i}.jpg", "valid") for i in range(3)),
    ]
    assert rows(roboflow.annotations, "annotation_id", "image_id", "source_id") == [
        *((i, i, None) for i in range(3)),
        *((i + 3, i + 3, str(i)) for i in range(3)),
    ]
    reports = refresh(str(tmp_path / "warehouse"), "set", Here())
    assert {report.version for report in reports} == {roboflow.version}


def test_exports_give_the_own_ids_back_one_split_at_a_time(tmp_path: Path, roboflow: Dataset) -> None:
    with pytest.raises(
        ConfigError, match=r"image id 0 of dataset set is .* 0\.jpg \(train\) and of 0\.jpg \(valid\): .*\(--split\)"
    ):
        export_dataset(roboflow, str(tmp_path / "all.json"))
    export_dataset(roboflow, str(tmp_path / "valid-again.json"), "valid")
    again, original = (json.loads((tmp_path / name).read_bytes()) for name in ("valid-again.json", "valid.json"))
    assert [(i["id"], i["file_name"]) for i in again["images"]] == [(i, f"{i}.jpg") for i in range(3)]
    assert [(a["id"], a["image_id"], a["bbox"]) for a in again["annotations"]] == [
        (a["id"], a["image_id"], a["bbox"]) for a in original["annotations"]
    ]


def test_results_under_own_ids_are_matched_within_their_split(tmp_path: Path, roboflow: Dataset) -> None:
    warehouse = str(tmp_path / "warehouse")
    uri = results(tmp_path, [found(0, 0.25), found(2, 0.75)])
    with pytest.raises(
        DatasetError, match=r"image_id 0 is that of several images .* 0\.jpg \(train\) and 0\.jpg \(valid\).*--split"
    ):
        import_coco(ImportConfig("set", predictions=uri, run="both", warehouse=warehouse))
    import_coco(ImportConfig("set", predictions=uri, run="valid", split="valid", warehouse=warehouse))
    record = open_committed(Warehouse(warehouse), "valid")
    assert query(warehouse, "SELECT image_id FROM predictions ORDER BY 1")["image_id"].to_pylist() == [3, 5]
    export_coco(record, str(tmp_path / "out.json"), Chosen(split="valid"))
    assert [r["image_id"] for r in json.loads((tmp_path / "out.json").read_bytes())] == [0, 2]


def test_text_and_numbers_come_back_as_they_were(tmp_path: Path, images: str) -> None:
    listed = coco([image("7", "b.jpg"), image("x", "c.jpg"), image("07", "d.jpg")], [box("n", "7"), box("8", "x")])
    _, dataset = take(tmp_path, images, put_coco(tmp_path, listed))
    export_dataset(dataset, str(tmp_path / "again.json"))
    again = json.loads((tmp_path / "again.json").read_bytes())
    assert sorted(i["id"] for i in again["images"]) == ["07", "7", "x"]
    assert sorted((a["id"], a["image_id"]) for a in again["annotations"]) == [("8", "x"), ("n", "7")]


def test_ids_that_earlier_versions_of_shardlens_gave_are_given(tmp_path: Path, images: str) -> None:
    take(tmp_path, images)
    (Path(images) / "d.jpg").unlink()
    take(tmp_path, images)
    pointer = tmp_path / "warehouse" / "datasets" / "set" / "latest.json"
    for path in pointer.parent.glob("*/removed-*"):
        path.unlink()
    pointer.write_text(json.dumps({"version": json.loads(pointer.read_text())["version"]}))
    put(Path(images), {"a.jpg": jpeg(9)})
    assert ids(take(tmp_path, images)[1]) == {"a.jpg": 4, "b.jpg": 1, "c.jpg": 2}
