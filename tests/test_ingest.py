"""Ingest into versioned tables, and opening them again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError, DatasetError, StorageError
from shardlens.pipeline.executors.base import Progress
from shardlens.pipeline.ingest import IngestConfig, ingest, refresh
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.datasets import Dataset, annotated, list_datasets, require_images
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.annotations.tiny import Here, box, coco, image, jpeg, png, put, put_coco, rows, take, voc_object, xml
from tests.conftest import Bucket


@pytest.fixture
def images(tmp_path: Path) -> str:
    return put(tmp_path / "images", {f"{name}.jpg": jpeg(i) for i, name in enumerate("abcd")})


@pytest.fixture
def train(tmp_path: Path) -> str:
    return put_coco(
        tmp_path, coco([image(1, "a.jpg"), image(2, "b.jpg")], [box(1, 1), box(2, 2, iscrowd=1)]), "train.json"
    )


@pytest.fixture
def val(tmp_path: Path) -> str:
    return put_coco(tmp_path, coco([image(3, "c.jpg")], [box(3, 3, category_id=7)]), "val.json")


def files(root: str) -> dict[str, bytes]:
    return {entry.name: storage.read(entry.uri) for entry in storage.walk(root)}


def test_ingest_writes_a_version_and_points_to_it(tmp_path: Path, images: str, train: str) -> None:
    report, dataset = take(tmp_path, images, train)
    assert (report.images, report.annotations, report.crowds, report.categories) == (2, 2, 1, 2)
    assert (
        report.version == dataset.version == tables.digest(dataset.images, dataset.annotations, dataset.categories)[:12]
    )
    assert sorted(files(str(tmp_path / "warehouse"))) == [
        *(
            f"datasets/set/{report.version}/{name}"
            for name in (
                "annotations.parquet",
                "categories.parquet",
                "dataset.json",
                "digests.parquet",
                "images.parquet",
            )
        ),
        "datasets/set/latest.json",
        "warehouse.json",
    ]
    assert dataset.images.schema == tables.IMAGES
    assert dataset.annotations.schema == tables.ANNOTATIONS
    assert dataset.categories.schema == tables.CATEGORIES
    assert dataset.document["sources"][0]["annotations"] == train
    assert dataset.document["category_names"] == ["cat", "dog"]


def test_the_same_content_is_the_same_version_byte_for_byte(tmp_path: Path, images: str, train: str) -> None:
    first, _ = take(tmp_path, images, train)
    before = files(str(tmp_path / "warehouse"))
    again, _ = take(tmp_path, f"file://{images}", train)
    assert replace(again, unchanged=0) == first
    assert files(str(tmp_path / "warehouse")) == before
    put_coco(tmp_path, coco([image(1, "a.jpg")], []), "train.json")
    changed, dataset = take(tmp_path, images, train)
    assert changed.version != first.version
    assert Dataset.open(Warehouse(str(tmp_path / "warehouse")), "set", first.version).images.num_rows == 2
    assert dataset.images.num_rows == 1


def test_an_ingest_replaces_its_split_and_keeps_the_others(tmp_path: Path, images: str, train: str, val: str) -> None:
    take(tmp_path, images, train, split="train")
    report, dataset = take(tmp_path, images, val, split="val")
    assert (report.images, report.splits) == (1, {"train": 2, "val": 1})
    assert rows(dataset.images, "image_id", "split") == [(1, "train"), (2, "train"), (3, "val")]
    assert rows(dataset.annotations, "annotation_id", "category") == [(1, "cat"), (2, "cat"), (3, "dog")]
    assert [source["splits"] for source in dataset.document["sources"]] == [["train"], ["val"]]
    put_coco(tmp_path, coco([image(9, "d.jpg")], []), "train.json")
    report, dataset = take(tmp_path, images, train, split="train")
    assert rows(dataset.images, "image_id", "split") == [(3, "val"), (9, "train")]
    assert dataset.annotations["annotation_id"].to_pylist() == [3]


def test_the_order_of_ingests_decides_new_ids_alone(tmp_path: Path, images: str, train: str, val: str) -> None:
    for name, order in (("one", ("train", "val")), ("two", ("val", "train"))):
        for split in order:
            take(tmp_path, images, {"train": train, "val": val}[split], name=name, split=split)
            take(tmp_path, put(tmp_path / split, {f"{split}.jpg": jpeg()}), name=f"{name}-plain", split=split)
    found = {dataset.name: dataset for dataset in list_datasets(Warehouse(str(tmp_path / "warehouse")))}
    assert found["one"].version == found["two"].version
    assert rows(found["one-plain"].images, "image_id", "file_name") == [(1, "train.jpg"), (2, "val.jpg")]
    assert rows(found["two-plain"].images, "image_id", "file_name") == [(1, "val.jpg"), (2, "train.jpg")]
    for name in ("one-plain", "two-plain"):
        assert {r.version for r in refresh(str(tmp_path / "warehouse"), name, Here())} == {found[name].version}


def test_categories_that_clash_change_nothing(tmp_path: Path, images: str, train: str) -> None:
    _, before = take(tmp_path, images, train, split="train")
    other = put_coco(tmp_path, coco([image(5, "c.jpg")], [], [(1, "fox")]), "other.json")
    with pytest.raises(DatasetError, match=r"category 1 is 'fox' in .*other\.json .*, 'cat' in another split"):
        take(tmp_path, images, other, split="val")
    assert Dataset.open(Warehouse(str(tmp_path / "warehouse")), "set").version == before.version


def test_the_same_source_may_get_a_split_later(tmp_path: Path, images: str, train: str) -> None:
    take(tmp_path, images, train)
    report, _ = take(tmp_path, images, train, split="train")
    assert report.splits == {"train": 2}
    report, _ = take(tmp_path, images, train)
    assert report.splits == {"": 2}


def test_images_without_a_split_stay_beside_a_split(tmp_path: Path, images: str) -> None:
    take(tmp_path, images)
    report, _ = take(tmp_path, put(tmp_path / "more", {"e.jpg": jpeg()}), split="val")
    assert report.splits == {"": 4, "val": 1}


def test_strict_writes_nothing_and_lists_the_problems(tmp_path: Path, images: str) -> None:
    bad = put_coco(
        tmp_path, coco([image(1, "a.jpg"), image(2, "gone.jpg")], [box(1, 1, [0, 0, 0, 5]), box(2, 1, [60, 0, 50, 5])])
    )
    with pytest.raises(
        DatasetError,
        match=r"(?s)3 kinds of problems.*missing-image: 1.*gone\.jpg.*degenerate-box: 1.*box-outside-image: 1.*64 x 48",
    ):
        take(tmp_path, images, bad, strict=True)
    assert not (tmp_path / "warehouse").exists()
    report, _ = take(tmp_path, images, bad)
    kinds = [problem.kind for problem in report.problems]
    assert kinds == ["missing-image", "degenerate-box", "box-outside-image", "unlisted-image"]
    assert take(tmp_path, images, strict=True, name="plain")[0].problems == ()


def test_a_report_reads_well_and_is_json(tmp_path: Path, images: str) -> None:
    many = [box(i, 1, [0, 0, -1, 5]) for i in range(8)]
    report, _ = take(tmp_path, images, put_coco(tmp_path, coco([image(1, "a.jpg")], many)), split="val")
    lines = str(report).splitlines()
    assert lines[0].startswith("format coco: ")
    assert lines[1] == f"set@{report.version}: 1 images, 8 annotations (0 crowds), 2 categories"
    assert lines[2:4] == [
        "images in the dataset: val 1",
        "degenerate-box: 8 (a box without width or height; kept)",
    ]
    assert lines[4] == "    annotation 0 of a.jpg: [0.0, 0.0, -1.0, 5.0]"
    assert lines[9] == "    ... and 3 more"
    assert lines[10].startswith(
        "unlisted-image: 3 (an image that the annotations do not list; left out, unless --unlisted keep"
    )
    assert json.loads(json.dumps(asdict(report)))["problems"][0]["count"] == 8
    clean, _ = take(tmp_path, images, name="plain")
    assert str(clean).endswith("no problems found")


def test_formats_are_recognized_and_splits_of_folders_kept(tmp_path: Path) -> None:
    voc = {
        "JPEGImages/a.jpg": jpeg(),
        "JPEGImages/b.jpg": jpeg(),
        "Annotations/a.xml": xml("a.jpg", voc_object("cat")),
        "Annotations/b.xml": xml("b.jpg"),
    }
    put(tmp_path / "voc", {**voc, "ImageSets/Main/train.txt": b"a\n", "ImageSets/Main/test.txt": b"b\n"})
    report, dataset = take(tmp_path, str(tmp_path / "voc"))
    assert (report.splits, dataset.document["sources"][0]["format"]) == ({"test": 1, "train": 1}, "voc")
    put(tmp_path / "masks", {"images/a.jpg": jpeg(), "masks/a.png": png([[1, 0]])})
    report, dataset = take(tmp_path, str(tmp_path / "masks"), name="masks", classes="sky")
    assert rows(dataset.annotations, "kind", "category") == [("region", "sky")]
    assert [problem.kind for problem in report.problems] == ["size-mismatch", "mask-of-another-size"]


def test_classes_come_from_text_or_a_file(tmp_path: Path, images: str) -> None:
    names = put(tmp_path, {"labels.txt": "__background__\nsky\n sea \n".encode("utf-8-sig")}) + "/labels.txt"
    for name, classes in (("one", names), ("two", "sky, sea")):
        _, dataset = take(tmp_path, images, name=name, classes=classes)
        assert rows(dataset.categories, "category_id", "name") == [(1, "sky"), (2, "sea")]
    for classes in ("sky,sky", " , "):
        with pytest.raises(ConfigError, match="expected one name or more, each once"):
            take(tmp_path, images, classes=classes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "a/b"}, "dataset 'a/b' cannot be used as a name"),
        ({"split": "x y"}, "split 'x y' cannot be used as a name"),
        ({"format": "yolo"}, "annotation format 'yolo': expected auto or one of coco, voc, masks, none"),
        ({"mask_kind": "instance"}, "--mask-kind is for mask images, but the annotations are of the format none"),
        ({"images": "s3://key:secret@bucket/x"}, r"s3://\*\*\*@bucket/x carries credentials"),
    ],
)
def test_settings_that_cannot_work(tmp_path: Path, images: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        take(tmp_path, **{"images": images, **settings})


def test_a_place_that_is_no_warehouse_is_reported_before_the_work(tmp_path: Path, images: str) -> None:
    seen: list[Progress] = []
    with pytest.raises(StorageError, match=r"images is not a warehouse and is not empty"):
        ingest(IngestConfig("set", images=images, warehouse=images), Here(), seen.append)
    assert seen == []
    with pytest.raises(StorageError, match="is not a warehouse"):
        Dataset.open(Warehouse(images), "set")


def test_what_is_not_there_is_reported_with_what_is(tmp_path: Path, images: str) -> None:
    warehouse = Warehouse(str(tmp_path / "warehouse"))
    warehouse.create()
    with pytest.raises(
        DatasetError, match=r"no dataset 'cells' in .*, which holds none: create it with 'shardlens ingest cells"
    ):
        Dataset.open(warehouse, "cells")
    report, _ = take(tmp_path, images, name="cells")
    take(tmp_path, images, name="shapes")
    with pytest.raises(DatasetError, match=r"no dataset 'cell' in .*: did you mean cells\? It holds cells, shapes"):
        Dataset.open(warehouse, "cell")
    with pytest.raises(DatasetError, match=f"dataset cells has no version 'nope': expected one of {report.version}"):
        Dataset.open(warehouse, "cells", "nope")
    assert [dataset.name for dataset in list_datasets(warehouse)] == ["cells", "shapes"]


def test_a_version_is_not_seen_before_it_is_complete(tmp_path: Path, images: str) -> None:
    report, _ = take(tmp_path, images)
    (tmp_path / "warehouse" / "datasets" / "set" / "latest.json").unlink()
    warehouse = Warehouse(str(tmp_path / "warehouse"))
    assert list_datasets(warehouse) == []
    with pytest.raises(DatasetError, match="no dataset 'set'"):
        Dataset.open(warehouse, "set")
    assert take(tmp_path, images)[0] == report


@pytest.mark.parametrize("place", ["memory", pytest.param("s3", marks=pytest.mark.s3)])
def test_images_annotations_and_warehouse_in_a_store(
    tmp_path: Path, place: str, request: pytest.FixtureRequest
) -> None:
    bucket: Bucket | None = request.getfixturevalue("s3") if place == "s3" else None
    root = bucket.uri if bucket else f"memory://{tmp_path.name}"
    name = "été 'a' #1 100%.jpg"
    storage.publish(f"{root}/in/{name}", jpeg())
    storage.publish(f"{root}/in/empty.jpg", b"")
    document = coco([image(1, name), image(2, "gone.jpg"), image(3, "empty.jpg")], [box(1, 1)])
    storage.publish(f"{root}/in.json", json.dumps(document).encode())
    report, dataset = take(tmp_path, f"{root}/in", f"{root}/in.json", warehouse=f"{root}/warehouse")
    assert rows(dataset.images, "uri", "width", "flags") == [
        (f"{root}/in/{name}", 64, []),
        (f"{root}/in/gone.jpg", None, ["missing-image"]),
        (f"{root}/in/empty.jpg", None, ["unreadable-image"]),
    ]
    assert report.annotations == dataset.annotations.num_rows == 1


def test_unlisted_images_are_counted_and_kept_on_request(tmp_path: Path, images: str, train: str) -> None:
    report, dataset = take(tmp_path, images, train)
    assert [(problem.kind, problem.count, problem.examples) for problem in report.problems] == [
        ("unlisted-image", 2, ("c.jpg", "d.jpg"))
    ]
    assert take(tmp_path, images, train, strict=True)[1].version == dataset.version
    report, dataset = take(tmp_path, images, train, unlisted="keep")
    assert rows(dataset.images, "image_id", "file_name", "width", "flags") == [
        (1, "a.jpg", 64, []),
        (2, "b.jpg", 64, []),
        (3, "c.jpg", 64, ["unlisted-image"]),
        (4, "d.jpg", 64, ["unlisted-image"]),
    ]
    assert annotated(dataset.images)["image_id"].to_pylist() == [1, 2]


def test_what_another_split_lists_is_not_unlisted(tmp_path: Path, images: str, train: str, val: str) -> None:
    take(tmp_path, images, train, split="train", unlisted="keep")
    report, dataset = take(tmp_path, images, val, split="val")
    assert rows(dataset.images, "image_id", "file_name", "split") == [
        (1, "a.jpg", "train"),
        (2, "b.jpg", "train"),
        (3, "c.jpg", "val"),
        (4, "d.jpg", "train"),
    ]
    assert [(problem.kind, problem.examples) for problem in report.problems] == [("unlisted-image", ("d.jpg",))]
    reports = refresh(str(tmp_path / "warehouse"), "set", Here())
    again = Dataset.open(Warehouse(str(tmp_path / "warehouse")), "set")
    assert sorted(again.images["file_name"].to_pylist()) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert sum(problem.count for report in reports for problem in report.problems) == 2


def test_the_schedule_keeps_new_images_that_are_not_listed(tmp_path: Path, images: str) -> None:
    listed = coco([image(i, f"{name}.jpg") for i, name in enumerate("abcd", 1)], [box(1, 1)])
    _, before = take(tmp_path, images, put_coco(tmp_path, listed))
    root = str(tmp_path / "warehouse")
    assert refresh(root, "set", Here())[0].version == before.version
    put(Path(images), {"e.jpg": jpeg(9)})
    assert refresh(root, "set", Here())[0].images == 5
    take(tmp_path, images, put_coco(tmp_path, listed), unlisted="drop")
    assert refresh(root, "set", Here())[0].version == before.version


def test_text_ids_of_one_split_and_numbers_of_another(tmp_path: Path, images: str) -> None:
    first = put_coco(tmp_path, coco([image("x", "a.jpg")], [box("n", "x")]), "first.json")
    second = put_coco(tmp_path, coco([image(7, "b.jpg")], [box(9, 7)]), "second.json")
    take(tmp_path, images, first, split="train")
    _, dataset = take(tmp_path, images, second, split="val")
    assert rows(dataset.images, "image_id", "source_id") == [(1, "x"), (7, "7")]
    assert rows(dataset.annotations, "annotation_id", "source_id") == [(1, "n"), (9, None)]


def test_a_dataset_of_absent_images_is_for_results_made_elsewhere(tmp_path: Path) -> None:
    where = put_coco(tmp_path, coco([image(1, "a.jpg"), image(2, "b.jpg")], [box(1, 1)]))
    report, dataset = take(tmp_path, str(tmp_path / "nowhere"), where)
    assert "no-images: 1 (not one image is there; results made elsewhere can be imported and scored" in str(report)
    with pytest.raises(DatasetError, match=r"none of the 2 images of dataset set was there when it was ingested"):
        require_images(dataset.images, "set")


def test_decode_reports_images_whose_pixels_are_damaged(tmp_path: Path) -> None:
    whole = jpeg(1)
    folder = put(tmp_path / "images", {"a.jpg": whole, "b.jpg": whole[:-400], "c.jpg": whole[:-2], "d.jpg": b"text"})
    plain, _ = take(tmp_path, folder)
    assert {problem.kind for problem in plain.problems} & {"damaged-image", "unreadable-image"} == {"unreadable-image"}
    report, dataset = take(tmp_path, folder, decode=True)
    (damaged,) = [problem for problem in report.problems if problem.kind == "damaged-image"]
    assert damaged.count == 2
    assert damaged.examples[0].startswith("b.jpg: JPEG of 64x48 is damaged or truncated")
    assert "only the marker of its end is missing: --accept-missing-end accepts it" in damaged.examples[1]
    flags = dict(rows(dataset.images, "file_name", "flags"))
    assert "damaged-image" in flags["b.jpg"]
    assert "damaged-image" not in flags["a.jpg"]
    assert dict(rows(dataset.images, "file_name", "width"))["b.jpg"] == 64
