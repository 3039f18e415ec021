"""COCO files: what is kept, what is flagged, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as codec

from shardlens.pipeline import storage
from shardlens.pipeline.annotations import coco as reader
from shardlens.pipeline.errors import ConfigError, DatasetError, StorageError
from shardlens.pipeline.warehouse import tables
from tests.annotations.tiny import HEIGHT, WIDTH, assembled, box, coco, image, jpeg, put, put_coco, rows, tar
from tests.conftest import Bucket

TRIANGLE = [[10.25, 5.5, 30.0, 5.5, 10.25, 25.125]]


@pytest.fixture
def images(tmp_path: Path) -> str:
    return put(tmp_path / "images", {"a.jpg": jpeg(1), "b.jpg": jpeg(2), "sub/c d'é#%.jpg": jpeg(3)})


def read(tmp_path: Path, images: str, document: dict[str, Any]) -> tuple[Any, dict[str, int]]:
    content, problems, _ = assembled(reader.read, images, put_coco(tmp_path, document))
    return content, problems


def test_ids_boxes_and_areas_are_kept_to_the_bit(tmp_path: Path, images: str) -> None:
    document = coco(
        [image(139, "b.jpg"), image(5, "a.jpg"), image(9, "sub/c d'é#%.jpg")],
        [box(900, 139, [0.1, 0.2, 30.3, 20.7], area=1 / 3), box(17, 5, category_id=7, area=7)],
    )
    content, problems = read(tmp_path, images, document)
    assert problems == {}
    assert rows(content.images, "image_id", "file_name", "width", "height") == [
        (5, "a.jpg", WIDTH, HEIGHT),
        (9, "sub/c d'é#%.jpg", WIDTH, HEIGHT),
        (139, "b.jpg", WIDTH, HEIGHT),
    ]
    assert rows(content.annotations, "annotation_id", "category", "area") == [(17, "dog", 7.0), (900, "cat", 1 / 3)]
    assert content.annotations["bbox"][1].as_py() == {"x": 0.1, "y": 0.2, "width": 30.3, "height": 20.7}
    assert rows(content.categories, "category_id", "name", "supercategory") == [
        (1, "cat", "animal"),
        (7, "dog", "animal"),
    ]


def test_every_form_of_mask_survives_the_round_trip(tmp_path: Path, images: str) -> None:
    crowd = {"size": [HEIGHT, WIDTH], "counts": [100, 50, 0, 30, HEIGHT * WIDTH - 180]}
    packed = codec.encode(np.asfortranarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8)))
    text = {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}
    given = [
        box(1, 5, segmentation=TRIANGLE, area=1.5),
        box(2, 5, segmentation=crowd, iscrowd=1, area=80.0),
        box(3, 5, segmentation=text, area=48.0),
        box(4, 5, segmentation=[], area=2.0),
        box(5, 5, segmentation=[], area=2.0, ignore=1),
    ]
    content, problems = read(tmp_path, images, coco([image(5, "a.jpg")], given))
    assert problems == {}
    assert content.annotations["kind"].to_pylist() == ["instance", "instance", "instance", "box", "box"]
    assert content.annotations["iscrowd"].to_pylist() == [False, True, False, False, False]
    again = [reader.to_coco(row) for row in content.annotations.to_pylist()]
    assert again == given
    assert json.loads(json.dumps(again)) == given


def test_polygons_are_drawn_as_pycocotools_draws_them(tmp_path: Path, images: str) -> None:
    content, _ = read(
        tmp_path, images, coco([image(5, "a.jpg")], [box(1, 5, segmentation=[*TRIANGLE, [1, 1, 9, 1, 9, 9]])])
    )
    drawn = codec.merge(codec.frPyObjects([*TRIANGLE, [1, 1, 9, 1, 9, 9]], HEIGHT, WIDTH))
    found = content.annotations["segmentation"][0].as_py()
    assert found == {"size": [HEIGHT, WIDTH], "counts": drawn["counts"].decode()}


def test_a_missing_box_or_area_is_derived(tmp_path: Path, images: str) -> None:
    polygon, boxed = box(1, 5, segmentation=TRIANGLE), box(2, 5, [0, 0, 4, 5])
    run = box(3, 5, segmentation={"size": [HEIGHT, WIDTH], "counts": [HEIGHT + 2, 3, HEIGHT * (WIDTH - 1) - 5]})
    for annotation in (polygon, run):
        del annotation["bbox"], annotation["area"]
    del boxed["area"], boxed["iscrowd"]
    content, problems = read(tmp_path, images, coco([image(5, "a.jpg")], [polygon, boxed, run]))
    boxes = [list(found.values()) for found in content.annotations["bbox"].to_pylist()]
    assert boxes == [[10.25, 5.5, 19.75, 19.625], [0, 0, 4, 5], [1, 2, 1, 3]]
    assert content.annotations["area"].to_pylist()[1:] == [20.0, 3.0]
    assert content.annotations["area"][0].as_py() == pytest.approx(19.75 * 19.625 / 2, rel=0.1)
    assert problems == {}


def test_what_is_doubtful_is_kept_with_a_flag(tmp_path: Path, images: str) -> None:
    annotations = [
        box(1, 5, [1, 1, 0, 5]),
        box(2, 5, [60, 1, 10, 5]),
        box(3, 5, [-0.03, 1, 5, 5]),
        box(4, 5, category_id=99),
        box(5, 5, segmentation=[[1, 2, 3, 4]]),
        box(6, 5, segmentation={"size": [HEIGHT, WIDTH], "counts": [5]}),
        box(7, 5, segmentation=[1, 2, 3, 4, 5, 6]),
        box(8, 5, ["x", 1, 2, 3]),
        box(9, 5, [float("nan"), 1, 2, 3]),
        box(11, 5, [1, 1, 5, 0]),
        box(10, 5, [10**400, 1, 2, 3], area=10**400, segmentation=[[10**400] * 6]),
    ]
    content, problems = read(tmp_path, images, coco([image(5, "a.jpg")], annotations))
    assert content.annotations["flags"].to_pylist() == [
        ["degenerate-box"],
        ["box-outside-image"],
        [],
        ["unknown-category"],
        ["bad-mask"],
        ["bad-mask"],
        ["bad-mask"],
        ["unreadable-box"],
        ["degenerate-box"],
        ["unreadable-box", "unreadable-area", "bad-mask"],
        ["degenerate-box"],
    ]
    assert problems == {
        "unknown-category": 1,
        "unreadable-box": 2,
        "unreadable-area": 1,
        "degenerate-box": 3,
        "box-outside-image": 1,
        "bad-mask": 4,
    }
    assert rows(content.annotations, "category_id", "category")[3] == (None, "99")
    assert content.annotations["polygons"][4].as_py() == [[1, 2, 3, 4]]
    assert content.annotations["segmentation"].null_count == 11


def test_ids_given_twice_get_new_ones(tmp_path: Path, images: str) -> None:
    listed = [image(5, "a.jpg"), image(5, "b.jpg"), image(5, "a.jpg"), image(6, "a.jpg")]
    content, problems = read(tmp_path, images, coco(listed, [box(1, 5), box(1, 6), box(8, 5)]))
    assert rows(content.images, "image_id", "file_name", "flags") == [
        (5, "a.jpg", []),
        (6, "a.jpg", ["duplicate-file-name"]),
        (7, "b.jpg", ["duplicate-image-id"]),
    ]
    assert rows(content.annotations, "annotation_id", "image_id", "flags") == [
        (1, 5, []),
        (8, 5, []),
        (9, 6, ["duplicate-annotation-id"]),
    ]
    assert problems == {
        "duplicate-image-id": 1,
        "repeated-image": 1,
        "duplicate-file-name": 1,
        "duplicate-annotation-id": 1,
    }


@pytest.mark.parametrize(
    "name", ["/etc/a.jpg", "../images/a.jpg", "sub/../../a.jpg", "s3://other/a.jpg", "file:///a.jpg", "", "."]
)
def test_a_file_name_that_leaves_its_root_is_refused(tmp_path: Path, images: str, name: str) -> None:
    content, problems = read(tmp_path, images, coco([image(1, name), image(2, "./b.jpg")], [box(1, 1), box(2, 2)]))
    assert rows(content.images, "image_id", "file_name") == [(2, "./b.jpg")]
    assert content.annotations["image_id"].to_pylist() == [2]
    assert problems == {"outside-root": 1, "unknown-image": 1}


def test_missing_damaged_and_resized_images_are_kept(tmp_path: Path, images: str) -> None:
    put(Path(images), {"bad.jpg": b"not an image", "empty.jpg": b""})
    listed = [
        image(1, "gone.jpg"),
        image(2, "bad.jpg"),
        image(3, "empty.jpg"),
        image(4, "a.jpg", width=65),
        image(5, "b.jpg", width=None),
    ]
    content, problems = read(tmp_path, images, coco(listed, [box(1, 1, segmentation=TRIANGLE)]))
    assert content.images["flags"].to_pylist() == [
        ["missing-image"],
        ["unreadable-image"],
        ["unreadable-image"],
        ["size-mismatch"],
        [],
    ]
    assert content.images["width"].to_pylist() == [None, None, None, WIDTH, WIDTH]
    assert problems == {"missing-image": 1, "unreadable-image": 2, "size-mismatch": 1}
    assert content.annotations["segmentation"][0].as_py()["size"] == [HEIGHT, WIDTH]


def test_a_turned_image_is_told(tmp_path: Path, images: str) -> None:
    listed = [image(1, "a.jpg", width=HEIGHT, height=WIDTH)]
    run = box(1, 1, segmentation={"size": [WIDTH, HEIGHT], "counts": [5, HEIGHT * WIDTH - 5]})
    content, problems, source = assembled(reader.read, images, put_coco(tmp_path, coco(listed, [run])))
    assert problems == {"size-mismatch": 1, "mask-of-another-size": 1}
    assert source.problems.found()[0].examples == (
        "a.jpg: 48 x 64 in the annotations, 64 x 48 in the image's header (the annotations seem to be of the turned image)",
    )
    assert content.annotations["segmentation"][0].as_py()["size"] == [WIDTH, HEIGHT]


def test_images_in_a_tar_are_found_by_their_names(tmp_path: Path) -> None:
    data = {"val/a.jpg": jpeg(1), "val/b.jpg": jpeg(2)}
    put(
        tmp_path,
        {"images.tar": tar(data), "tars/0.tar": tar({"a.jpg": jpeg(1)}), "tars/1.tar": tar({"b.jpg": jpeg(2)})},
    )
    document = coco([image(1, "b.jpg"), image(2, "gone.jpg")], [box(1, 1)])
    for place in ("images.tar", "tars"):
        content, problems = read(tmp_path, str(tmp_path / place), document)
        uri, offset, length = rows(content.images, "uri", "offset", "length")[0]
        assert Path(uri).read_bytes()[offset : offset + length] == jpeg(2)
        assert content.images["flags"].to_pylist() == [[], ["missing-image"]]
        assert problems == {"missing-image": 1}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"annotations": [], "categories": []}, r"has no key 'images': expected a COCO instances file"),
        (coco([], []), r"'images' is an empty list"),
        (coco([{"id": 1}], []), r"images\[0\]: no key 'file_name'; its keys are id"),
        (coco([image(1, 5)], []), r"images\[0\]: file_name is int 5, expected text"),
        (
            coco([image(1, "a.jpg")], [], [(1, "cat"), (1, "dog")]),
            r"categories\[1\]: category id 1 is given twice, as 'cat' and as 'dog'",
        ),
        ({**coco([image(1, "a.jpg")], []), "annotations": {}}, r"'annotations' is dict {}, expected a list"),
    ],
)
def test_a_file_of_another_form_is_an_error_with_its_place(
    tmp_path: Path, images: str, document: Any, message: str
) -> None:
    with pytest.raises(DatasetError, match=r"instances\.json.*" + message):
        read(tmp_path, images, document)


def test_what_cannot_be_used_is_left_out_or_flagged_item_by_item(tmp_path: Path, images: str) -> None:
    listed = [image(1, "a.jpg"), {"file_name": "b.jpg"}, 5, {"id": 7}, image(1 << 70, "sub/c d'é#%.jpg")]
    notes = [box(1, 1), 5, {"id": 2}, box(3, 1, category_id=None), box(None, 1), box(True, 1), box(1 << 70, 1)]
    content, problems = read(tmp_path, images, coco(listed, notes))
    assert rows(content.images, "image_id", "file_name", "flags") == [
        (1, "a.jpg", []),
        (2, "b.jpg", ["unreadable-id"]),
        (3, "sub/c d'é#%.jpg", ["unreadable-id"]),
    ]
    assert rows(content.annotations, "annotation_id", "category_id", "flags") == [
        (1, 1, []),
        (3, None, ["unknown-category"]),
        *((number, 1, ["unreadable-id"]) for number in (4, 5, 6)),
    ]
    assert problems == {"unreadable-entry": 3, "unreadable-id": 5, "unknown-image": 1, "unknown-category": 1}


def test_text_ids_get_numbers_and_are_kept_as_source_ids(tmp_path: Path, images: str) -> None:
    listed = [image("x", "a.jpg"), image("12", "b.jpg"), image("y", "sub/c d'é#%.jpg")]
    notes = [box("n1", "x", category_id="c"), box("8", "y"), box(1.0, 12, category_id="d"), box("n1", "12")]
    content, problems = read(tmp_path, images, coco(listed, notes, [("c", "cat"), ("d", "dog"), (1.0, "cow")]))
    assert problems == {}
    assert rows(content.images, "image_id", "source_id", "file_name") == [
        (12, "12", "b.jpg"),
        (13, "x", "a.jpg"),
        (14, "y", "sub/c d'é#%.jpg"),
    ]
    assert rows(content.categories, "category_id", "source_id", "name") == [
        (1, None, "cow"),
        (2, "c", "cat"),
        (3, "d", "dog"),
    ]
    assert rows(content.annotations, "image_id", "annotation_id", "source_id", "category") == [
        (12, 1, None, "dog"),
        (12, 10, "n1", "cow"),
        (13, 9, "n1", "cat"),
        (14, 8, "8", "cow"),
    ]


def test_without_text_ids_the_tables_are_what_they_were(tmp_path: Path, images: str) -> None:
    content, _ = read(tmp_path, images, coco([image(1, "a.jpg")], [box(1, 1)]))
    assert (content.images.schema, content.annotations.schema) == (tables.IMAGES, tables.ANNOTATIONS)
    assert content.categories.schema == tables.CATEGORIES


@pytest.mark.parametrize("value", ["0", 0, False, None, "false", 0.0, ""])
def test_a_flag_is_off_in_every_spelling(tmp_path: Path, images: str, value: object) -> None:
    content, problems = read(tmp_path, images, coco([image(1, "a.jpg")], [box(1, 1, iscrowd=value, ignore=value)]))
    assert rows(content.annotations, "iscrowd", "ignore") == [(False, False)]
    assert problems == {}


@pytest.mark.parametrize(
    ("value", "flags"), [("1", []), (True, []), (1.0, []), ("True", []), ("?", 1), ([0], 1), ({}, 1)]
)
def test_a_flag_is_on_or_reported(tmp_path: Path, images: str, value: object, flags: object) -> None:
    content, problems = read(tmp_path, images, coco([image(1, "a.jpg")], [box(1, 1, iscrowd=value)]))
    assert content.annotations["iscrowd"].to_pylist() == [not flags]
    assert problems == ({"unreadable-flag": 1} if flags else {})


@pytest.mark.parametrize("bad", [[1, 2, 3, 4], [1, "x"], 5, [1, 2, 3, 4, 5, 6, 7], [float("nan")] * 6, [1e30] * 6, []])
def test_of_a_masks_polygons_the_valid_ones_stay(tmp_path: Path, images: str, bad: object) -> None:
    document = coco([image(5, "a.jpg")], [box(1, 5, segmentation=[*TRIANGLE, bad]), box(2, 5, segmentation=[bad])])
    content, problems = read(tmp_path, images, document)
    drawn = codec.merge(codec.frPyObjects(TRIANGLE, HEIGHT, WIDTH))["counts"].decode()
    assert content.annotations["segmentation"].to_pylist() == [{"size": [HEIGHT, WIDTH], "counts": drawn}, None]
    assert content.annotations["flags"].to_pylist() == [["bad-polygon"], ["bad-mask"]]
    assert problems == {"bad-polygon": 1, "bad-mask": 1}


def test_an_id_at_the_end_of_the_range_may_come_twice(tmp_path: Path, images: str) -> None:
    top = (1 << 63) - 1
    listed = [image(top, "a.jpg"), image(top, "b.jpg"), image(1, "sub/c d'é#%.jpg")]
    content, problems = read(tmp_path, images, coco(listed, [box(top, top), box(top, 1), box(1, 1)]))
    assert content.images["image_id"].to_pylist() == [1, 2, top]
    assert content.annotations["annotation_id"].to_pylist() == [1, 2, top]
    assert problems == {"duplicate-image-id": 1, "duplicate-annotation-id": 1}


def test_two_categories_of_one_name_are_reported(tmp_path: Path, images: str) -> None:
    document = coco([image(1, "a.jpg")], [box(1, 1, category_id=2), box(2, 1, category_id=5)], [(2, "cat"), (5, "cat")])
    content, problems = read(tmp_path, images, document)
    assert rows(content.annotations, "category_id", "category") == [(2, "cat"), (5, "cat")]
    assert problems == {"duplicate-category-name": 1}


def test_a_file_without_categories_names_them_after_their_ids(tmp_path: Path, images: str) -> None:
    document = coco([image(1, "a.jpg")], [box(1, 1, category_id=3), box(2, 1, category_id="x"), box(3, 1)])
    for lacking in ({**document, "categories": []}, {k: v for k, v in document.items() if k != "categories"}):
        content, problems = read(tmp_path, images, lacking)
        assert rows(content.categories, "category_id", "name") == [(1, "class 1"), (3, "class 3"), (4, "x")]
        assert content.annotations["category"].to_pylist() == ["class 3", "x", "class 1"]
        assert problems == {"unnamed-category": 3}


def test_a_file_without_annotations_tells_nothing_of_its_images(tmp_path: Path, images: str) -> None:
    document = {key: value for key, value in coco([image(1, "a.jpg")], []).items() if key != "annotations"}
    content, problems = read(tmp_path, images, document)
    assert content.images["flags"].to_pylist() == [["image-without-annotation"]]
    assert problems == {"image-without-annotation": 1}
    assert content.categories.num_rows == 2


def test_lone_surrogates_and_long_numbers_are_no_end(tmp_path: Path, images: str) -> None:
    document = coco([image(1, "a.jpg"), image(2, "\ud800.jpg")], [box(1, 1, [10**30, 1, 2, 3])], [(1, "\udfff")])
    content, problems = read(tmp_path, images, document)
    assert content.images["file_name"].to_pylist() == ["a.jpg", "\ufffd.jpg"]
    assert content.categories["name"].to_pylist() == ["\ufffd"]
    assert problems == {"missing-image": 1, "unreadable-box": 1}
    data = Path(put_coco(tmp_path, document)).read_text().replace('"area": 200', '"area": ' + "9" * 5000)
    where = put(tmp_path, {"long.json": data.encode()}) + "/long.json"
    assert assembled(reader.read, images, where)[0].annotations["area"].to_pylist() == [float("inf")]


def test_a_region_stays_a_region(tmp_path: Path, images: str) -> None:
    run = {"size": [HEIGHT, WIDTH], "counts": [100, 50, HEIGHT * WIDTH - 150]}
    marked, thing = box(1, 5, segmentation=run, kind="region"), box(2, 5, segmentation=run, category_id=7)
    del marked["bbox"]
    content, _ = read(tmp_path, images, coco([image(5, "a.jpg")], [marked, thing]))
    assert content.annotations["kind"].to_pylist() == ["region", "instance"]
    assert content.annotations["bbox"][0].as_py() is None
    again = [reader.to_coco(row) for row in content.annotations.to_pylist()]
    assert read(tmp_path, images, coco([image(5, "a.jpg")], again))[0].annotations == content.annotations
    stuff = coco([image(5, "a.jpg")], [thing])
    stuff["categories"][1]["isthing"] = 0
    assert read(tmp_path, images, stuff)[0].annotations["kind"].to_pylist() == ["region"]


def test_an_absolute_path_below_the_root_is_taken(tmp_path: Path, images: str) -> None:
    listed = [image(1, f"{images}/a.jpg"), image(2, f"file://{images}/b.jpg"), image(3, "/elsewhere/a.jpg")]
    content, problems = read(tmp_path, images, coco(listed, []))
    assert content.images["file_name"].to_pylist() == ["a.jpg", "b.jpg"]
    assert problems["outside-root"] == 1


def test_every_name_leads_out(tmp_path: Path, images: str) -> None:
    with pytest.raises(
        DatasetError, match=r"every file_name of its 1 images leads out of .*a.jpg could be it: --match-names"
    ):
        read(tmp_path, images, coco([image(1, "/home/u/a.jpg")], [box(1, 1)]))
    with pytest.raises(
        DatasetError, match=r"leads out of .* \(the first: 'http://x/z.jpg'\); give the folder .* --images"
    ):
        read(tmp_path, images, coco([image(1, "http://x/z.jpg")], []))


@pytest.mark.parametrize("folder", ["nowhere", "empty", "others"])
def test_of_a_file_all_images_may_be_absent(tmp_path: Path, folder: str) -> None:
    put(tmp_path / "empty", {"notes.txt": b""})
    put(tmp_path / "others", {"x.jpg": jpeg()})
    document = coco([image(1, "a.jpg"), image(2, "b.jpg", width=None)], [box(1, 1, segmentation=TRIANGLE)])
    content, problems = read(tmp_path, str(tmp_path / folder), document)
    assert rows(content.images, "flags", "width", "height") == [
        (["missing-image"], WIDTH, HEIGHT),
        (["missing-image"], None, HEIGHT),
    ]
    assert content.annotations["segmentation"][0].as_py()["size"] == [HEIGHT, WIDTH]
    assert problems == {"missing-image": 2, "no-images": 1}


@pytest.mark.s3
def test_a_bucket_that_is_not_there_is_no_absence_of_images(tmp_path: Path, s3: Bucket) -> None:
    with pytest.raises(StorageError, match="not-there"):
        read(tmp_path, "s3://not-there/images", coco([image(1, "a.jpg")], []))


def test_no_image_could_be_read_where_the_names_could_mean_files(tmp_path: Path, images: str) -> None:
    with pytest.raises(
        DatasetError,
        match=r"none of the 1 images could be read \(the first: val/a.jpg: nothing at .*; a.jpg could be it, --match-names.*"
        "--images",
    ):
        read(tmp_path, images, coco([image(1, "val/a.jpg")], []))


NAMES = {
    "backslash": ("sub\\b.jpg", "sub/b.jpg"),
    "escaped": ("sub/b%20c.jpg", "sub/b c.jpg"),
    "escaped-on-disk": ("b c.jpg", "b%20c.jpg"),
    "other-case": ("B.JPG", "b.jpg"),
    "nfd": ("ca\u0301fe.jpg", "c\u00e1fe.jpg"),
    "nfc": ("c\u00e1fe.jpg", "ca\u0301fe.jpg"),
    "extra-folder": ("coco/val/b.jpg", "b.jpg"),
    "missing-folder": ("b.jpg", "val/deep/b.jpg"),
    "windows": ("C:\\data\\b.jpg", "b.jpg"),
    "absolute": ("/home/u/b.jpg", "b.jpg"),
    "url": ("http://host/x/b.jpg", "b.jpg"),
    "above": ("../b.jpg", "b.jpg"),
    "spaces": (" b.jpg ", "b.jpg"),
    "all": ("C:\\VAL\\Ca\u0301fe%201.JPG", "val/c\u00e1fe 1.jpg"),
}


@pytest.mark.parametrize(("name", "file"), NAMES.values(), ids=NAMES.keys())
@pytest.mark.parametrize("in_tar", [False, True], ids=["folder", "tar"])
def test_the_one_file_that_a_name_could_mean(tmp_path: Path, name: str, file: str, in_tar: bool) -> None:
    data = {"a.jpg": jpeg(1), file: jpeg(2)}
    root = put(tmp_path / "images", {"0.tar": tar(data)} if in_tar else data)
    where = put_coco(tmp_path, coco([image(1, "a.jpg"), image(2, name)], [box(1, 2)]))
    content, problems, source = assembled(reader.read, root, where)
    assert content.images.num_rows == (1 if "outside-root" in problems else 2)
    kind = "outside-root" if "outside-root" in problems else "missing-image"
    texts = next(problem.examples for problem in source.problems.found() if problem.kind == kind)
    assert f"{file} could be it, --match-names takes it" in texts[0]
    content, problems, _ = assembled(reader.read, root, where, match_names=True)
    assert rows(content.images, "flags", "width") == [([], WIDTH), (["matched-name"], WIDTH)]
    assert problems == {"matched-name": 1}
    uri, offset, length = rows(content.images, "uri", "offset", "length")[1]
    assert storage.read_range(uri, offset or 0, length or 1 << 20) == jpeg(2)


def test_a_doubtful_name_means_nothing(tmp_path: Path) -> None:
    names = ("a.jpg", "x/b.jpg", "y/b.jpg", "c.jpg", "D.jpg", "d.jpg")
    root = put(tmp_path / "images", {name: jpeg() for name in names})
    listed = [image(i, name) for i, name in enumerate(["a.jpg", "A.jpg", "b.jpg", "C.jpg", "c.JPG", "D.JPG"])]
    where = put_coco(tmp_path, coco(listed, []))
    content, problems, _ = assembled(reader.read, root, where, match_names=True)
    assert content.images["flags"].to_pylist() == [[], *[["missing-image"]] * 5]
    assert problems == {"missing-image": 5}


def test_a_dot_before_a_name_is_nothing(tmp_path: Path) -> None:
    put(tmp_path, {"tars/0.tar": tar({"./a.jpg": jpeg(1), "b.jpg": jpeg(2)})})
    content, problems = read(tmp_path, str(tmp_path / "tars"), coco([image(1, "a.jpg"), image(2, "./b.jpg")], []))
    assert content.images["width"].to_pylist() == [WIDTH, WIDTH]
    assert problems == {}


def test_images_next_to_those_listed_are_unlisted(tmp_path: Path) -> None:
    files = (
        "val/a.jpg",
        "val/b.jpg",
        "val/new/c.jpg",
        "val/masks/a.png",
        "train/d.jpg",
        "val/.cache/e.jpg",
        "val/f.txt",
    )
    root = put(tmp_path / "images", {name: jpeg() for name in files})
    source = assembled(reader.read, root, put_coco(tmp_path, coco([image(1, "val/a.jpg")], [])))[2]
    assert source.unlisted is not None
    assert rows(source.unlisted, "file_name", "flags") == [
        ("val/b.jpg", ["unlisted-image"]),
        ("val/new/c.jpg", ["unlisted-image"]),
    ]


def test_settings_that_do_not_go_with_coco(tmp_path: Path, images: str) -> None:
    with pytest.raises(ConfigError, match="needs the URI of an instances JSON file"):
        assembled(reader.read, images)
    with pytest.raises(ConfigError, match="names its own categories: leave --classes out"):
        assembled(reader.read, images, put_coco(tmp_path, coco([image(1, "a.jpg")], [])), classes=("cat",))


def test_annotations_may_stand_before_the_images(tmp_path: Path, images: str) -> None:
    document = coco([image(1, "a.jpg")], [box(1, 1, segmentation=TRIANGLE)])
    content, problems = read(tmp_path, images, dict(reversed(document.items())))
    assert content.annotations["segmentation"].null_count == 0
    assert problems == {}
