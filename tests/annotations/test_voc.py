"""Pascal VOC folders: boxes, difficult objects, split lists and damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shardlens.pipeline.annotations import voc
from shardlens.pipeline.errors import DatasetError
from tests.annotations.tiny import HEIGHT, WIDTH, assembled, jpeg, put, rows, voc_object, xml


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "JPEGImages", {f"{name}.jpg": jpeg() for name in "abcd"})
    for name in "abcd":
        put(tmp_path / "Annotations", {f"{name}.xml": xml(f"{name}.jpg", voc_object("dog" if name == "a" else "cat"))})
    return tmp_path


def read(root: Path, **request: Any) -> tuple[Any, dict[str, int]]:
    content, problems, _ = assembled(voc.read, str(root / "JPEGImages"), str(root / "Annotations"), **request)
    return content, problems


def test_corners_become_boxes_and_difficult_is_ignored(root: Path) -> None:
    boxes = [voc_object("person", (1, 1, WIDTH, HEIGHT)), voc_object("cat", ("4.5", "5", "10.25", "7"), difficult=1)]
    put(root / "Annotations", {"a.xml": xml("a.jpg", *boxes)})
    content, problems = read(root)
    first, second = content.annotations.to_pylist()[:2]
    assert list(first["bbox"].values()) == [1, 1, WIDTH - 1, HEIGHT - 1]
    assert (first["area"], first["ignore"], first["kind"]) == ((WIDTH - 1) * (HEIGHT - 1), False, "box")
    assert (second["bbox"]["x"], second["bbox"]["width"], second["ignore"]) == (4.5, 5.75, True)
    assert rows(content.categories, "category_id", "name") == [(1, "cat"), (2, "person")]
    assert rows(content.annotations, "annotation_id", "image_id", "category_id") == [
        (1, 1, 2),
        (2, 1, 1),
        (3, 2, 1),
        (4, 3, 1),
        (5, 4, 1),
    ]
    assert problems == {}


def test_given_classes_set_the_ids(root: Path) -> None:
    content, problems = read(root, classes=("fox", "dog"))
    assert rows(content.annotations, "category_id", "category", "flags")[:2] == [
        (2, "dog", []),
        (None, "cat", ["unknown-category"]),
    ]
    assert rows(content.categories, "category_id", "name") == [(1, "fox"), (2, "dog")]
    assert problems == {"unknown-category": 3}


def test_split_lists_of_a_root(root: Path) -> None:
    lists = {
        "train.txt": b"a\nb  1\n\nzz\n",
        "val.txt": b"c\nb\n",
        "trainval.txt": b"a\nb\nc\n",
        "cat_train.txt": b"a -1\n",
    }
    put(root / "ImageSets" / "Main", lists)
    content, problems, source = assembled(voc.read, str(root))
    assert rows(content.images, "file_name", "split") == [
        ("a.jpg", "train"),
        ("b.jpg", "train"),
        ("c.jpg", "val"),
        ("d.jpg", None),
    ]
    assert problems == {"in-two-splits": 1, "annotation-without-image": 1}
    assert source.problems.found()[0].examples == ("zz, listed in train.txt",)
    only, _, _ = assembled(voc.read, str(root), str(root), split="trainval")
    assert rows(only.images, "file_name", "split") == [(f"{name}.jpg", "trainval") for name in "abc"]
    with pytest.raises(DatasetError, match=r"split 'test' has no list in ImageSets, which has train, trainval, val"):
        assembled(voc.read, str(root), split="test")


def test_files_without_partner_and_of_another_image(root: Path) -> None:
    (root / "Annotations" / "a.xml").unlink()
    put(
        root / "Annotations",
        {"z.xml": xml("z.jpg"), "b.xml": xml("C:\\old\\c.png"), "c.xml": xml("c.png", width=WIDTH + 1)},
    )
    content, problems = read(root, split="train")
    assert content.images["flags"].to_pylist() == [
        ["image-without-annotation"],
        ["annotation-of-another-image"],
        ["size-mismatch"],
        [],
    ]
    assert set(content.images["split"].to_pylist()) == {"train"}
    assert problems == {
        "size-mismatch": 1,
        "image-without-annotation": 1,
        "annotation-without-image": 1,
        "annotation-of-another-image": 1,
    }


def test_damaged_files_and_objects(root: Path) -> None:
    no_box, no_name = "<object><name>cat</name></object>", voc_object("", (1, 1, 5, 5))
    nan = voc_object("cat", (1, 1, "nan", 5))
    damaged = {
        "a.xml": b"<annotation>\n<object>",
        "b.xml": b"<html/>",
        "c.xml": xml("c.jpg", no_box, no_name, nan, width=0),
    }
    put(root / "Annotations", damaged)
    content, problems, source = assembled(voc.read, str(root))
    assert content.images["flags"].to_pylist() == [["unreadable-annotation"], ["unreadable-annotation"], [], []]
    assert content.annotations["flags"].to_pylist() == [
        ["unreadable-box"],
        ["unknown-category"],
        ["unreadable-box"],
        [],
    ]
    assert problems == {"unreadable-annotation": 2, "unknown-category": 1, "unreadable-box": 2}
    texts = {problem.kind: problem.examples for problem in source.problems.found()}["unreadable-annotation"]
    assert texts[0].startswith(f"a.jpg: {root}/Annotations/a.xml, line 2, column 9: not XML (no element found")
    assert texts[1].endswith("b.xml: the root element is <html>, expected <annotation>")


def test_a_folder_of_other_annotations_is_an_error(root: Path, tmp_path: Path) -> None:
    put(tmp_path / "other", {"x.xml": xml("x.jpg")})
    with pytest.raises(
        DatasetError, match=r"none of the 4 images .* same stem below .*other, which holds 1 others, such as x\.xml"
    ):
        assembled(voc.read, str(root), str(tmp_path / "other"))
    put(root / "Annotations", {f"{name}.xml": b"<" for name in "abcd"})
    with pytest.raises(
        DatasetError,
        match=r"none of the 4 annotation files could be read; the first: a\.jpg.*line 1, column 1: not XML \(unclosed token\)$",
    ):
        read(root)
