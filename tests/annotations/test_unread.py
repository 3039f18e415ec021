"""What lies at the places of an ingest and was not read is named, with the option that reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.annotations.tiny import box, coco, image, jpeg, png, put, put_coco, take, tar, voc_object, xml

COCO = json.dumps(coco([image(1, "a.jpg")], [box(1, 1)])).encode()
LABELME = json.dumps({"version": "5", "shapes": [], "imagePath": "a.jpg"}).encode()


@pytest.mark.parametrize(
    ("name", "data", "hint"),
    [
        (
            "labels/a.txt",
            b"0 0.5 0.5 0.2 0.2\n",
            "labels/*.txt looks like YOLO labels, which are not read: convert them",
        ),
        (
            "_annotations.coco.json",
            COCO,
            "_annotations.coco.json looks like COCO annotations: --annotations {root}/_annotations",
        ),
        ("annotations/instances_val.json", COCO, "instances_val.json reads it"),
        ("a.json", LABELME, "a.json is of labelme, which is not read: convert it to COCO or VOC"),
        ("annotations.xml", b"<?xml version='1.0'?><annotations><version>1.1</version></annotations>", "is of CVAT"),
        (
            "a.xml",
            xml("a.jpg", voc_object("cat")),
            "looks like Pascal VOC: --annotations {root} --format voc reads such files",
        ),
    ],
)
def test_annotations_of_other_kinds_are_named(tmp_path: Path, name: str, data: bytes, hint: str) -> None:
    root = put(tmp_path / "set", {"images/a.jpg": jpeg(), name: data})
    report, _ = take(tmp_path, root)
    assert report.format == "none"
    assert hint.format(root=root) in "\n".join(report.notes)
    assert any(note.startswith(f"not read below {root}: 1 ") for note in report.notes)


def test_hidden_images_are_counted(tmp_path: Path) -> None:
    files = {"a.jpg": jpeg(), ".trash/b.jpg": jpeg(1), ".c.jpg": jpeg(2), "._a.jpg": b"macOS", ".git/x": b""}
    report, dataset = take(tmp_path, put(tmp_path / "set", files))
    assert dataset.images["file_name"].to_pylist() == ["a.jpg"]
    assert [note.rpartition(":")[2] for note in report.notes if note.startswith("hidden images left out")] in (
        [" 2, such as .c.jpg"],
        [" 2, such as .trash/b.jpg"],
    )


def test_every_coco_file_of_a_folder_is_named(tmp_path: Path) -> None:
    files = {f"annotations/instances_{split}2017.json": COCO for split in ("train", "val")}
    root = put(tmp_path / "coco", {"val2017/a.jpg": jpeg(), **files})
    notes = "\n".join(take(tmp_path, root)[0].notes)
    assert all(f"--annotations {root}/{name} reads it" in notes for name in files)


def test_members_of_tars_are_named_too(tmp_path: Path) -> None:
    root = put(tmp_path, {"set.tar": tar({"a.jpg": jpeg(), "a.json": LABELME})}) + "/set.tar"
    assert f"a.json in {root} is of labelme" in "\n".join(take(tmp_path, root)[0].notes)


def test_masks_that_a_coco_ingest_leaves(tmp_path: Path) -> None:
    root = put(tmp_path / "set", {"images/a.jpg": jpeg(), "masks/a.png": png([[1]])})
    report, _ = take(tmp_path, root, put_coco(tmp_path, coco([image(1, "images/a.jpg")], [box(1, 1)])))
    assert report.notes == (
        f"not read below {root}: 1 .png",
        f"masks/ in {root} holds mask images: --format masks reads them",
    )


def test_split_lists_next_to_the_xml_files_are_named(tmp_path: Path) -> None:
    files = {"JPEGImages/a.jpg": jpeg(), "Annotations/a.xml": xml("a.jpg"), "ImageSets/Main/train.txt": b"a\n"}
    root = put(tmp_path / "BCCD", files)
    report, _ = take(tmp_path, f"{root}/JPEGImages", f"{root}/Annotations")
    assert report.notes == (f"the split lists in {root}/ImageSets were not used: --annotations {root} takes them",)
    assert take(tmp_path, root)[0].notes == ()


def test_images_reported_as_unlisted_are_not_reported_as_unread_too(tmp_path: Path) -> None:
    root = put(tmp_path / "set", {"a.jpg": jpeg(), "b.jpg": jpeg(1), "c.txt": b"words"})
    report, _ = take(tmp_path, root, put_coco(tmp_path, coco([image(1, "a.jpg")], [box(1, 1)])))
    assert [(problem.kind, problem.count) for problem in report.problems] == [("unlisted-image", 1)]
    assert report.notes == (f"not read below {root}: 1 .txt",)
