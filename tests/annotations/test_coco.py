"""COCO files: what is kept, what is flagged, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as codec

from shardlens.pipeline.annotations import coco as reader
from shardlens.pipeline.errors import ConfigError, DatasetError
from tests.annotations.tiny import HEIGHT, WIDTH, assembled, box, coco, image, jpeg, put, put_coco, rows, tar

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
        ["unreadable-box", "bad-mask"],
        ["degenerate-box"],
    ]
    assert problems == {
        "unknown-category": 1,
        "unreadable-box": 2,
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
        ({"images": [], "annotations": []}, r"has no key 'categories': expected a COCO instances file"),
        (coco([], []), r"'images' is an empty list"),
        (coco([{"id": 1}], []), r"images\[0\] has no key 'file_name'; its keys are id"),
        (coco([image(1, "a.jpg"), {"file_name": "b.jpg"}], []), r"images\[1\] has no key 'id'"),
        (coco([image(1, "a.jpg")], [box(1, 1), {"id": 2}]), r"annotations\[1\] has no key 'image_id'"),
        (
            coco([image(1, "a.jpg")], [box(1, 1, category_id="cat")]),
            r"annotations\[0\]: category_id is str 'cat', expected a whole",
        ),
        (coco([image("7", "a.jpg")], []), r"images\[0\]: id is str '7', expected a whole number"),
        (coco([image(1, 5)], []), r"images\[0\]: file_name is int 5, expected text"),
        (
            coco([image(1 << 70, "a.jpg")], []),
            r"images\[0\]: id is int 1180591620717411303424, expected a whole number",
        ),
        (coco([image(1, "a.jpg")], [], [(1, "cat"), (1, "dog")]), r"categories\[1\]: category id 1 is given twice"),
        (coco([image(1, "a.jpg")], [5]), r"annotations\[0\] is int 5, expected an object"),
        ({**coco([image(1, "a.jpg")], []), "annotations": {}}, r"'annotations' is dict {}, expected a list"),
    ],
)
def test_a_file_of_another_form_is_an_error_with_its_place(
    tmp_path: Path, images: str, document: Any, message: str
) -> None:
    with pytest.raises(DatasetError, match=r"instances\.json.*" + message):
        read(tmp_path, images, document)


def test_no_image_at_all_is_an_error(tmp_path: Path, images: str) -> None:
    with pytest.raises(
        DatasetError, match=r"none of the 1 images could be read \(the first: val/a.jpg: nothing at .*--images"
    ):
        read(tmp_path, images, coco([image(1, "val/a.jpg")], []))


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
