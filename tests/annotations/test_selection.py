"""Lists of images, shares that are held out, and images with the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardlens.pipeline.errors import ConfigError, DatasetError
from tests.annotations.tiny import box, coco, image, jpeg, png, put, put_coco, rows, take
from tests.drawn_images import encode, picture


@pytest.fixture
def images(tmp_path: Path) -> str:
    return put(tmp_path / "set", {f"part/{i}.jpg": jpeg(i) for i in range(10)})


def test_a_share_is_held_out_by_names_and_seed(tmp_path: Path, images: str) -> None:
    report, dataset = take(tmp_path, images, holdout=0.2)
    assert report.splits == {"train": 8, "val": 2}
    chosen = [name for name, split in rows(dataset.images, "file_name", "split") if split == "val"]
    _, again = take(tmp_path, images, holdout=0.2, name="again")
    assert again.version == dataset.version
    _, other = take(tmp_path, images, holdout=0.2, seed=1, name="other")
    assert [name for name, split in rows(other.images, "file_name", "split") if split == "val"] != chosen
    report, _ = take(tmp_path, images, holdout=0.5, split="street", name="named")
    assert report.splits == {"street": 5, "val": 5}


def test_a_share_of_a_coco_file(tmp_path: Path, images: str) -> None:
    truth = put_coco(tmp_path, coco([image(i + 1, f"part/{i}.jpg") for i in range(10)], [box(1, 1)]))
    assert take(tmp_path, images, truth, holdout=0.3)[0].splits == {"train": 7, "val": 3}


def test_shares_that_cannot_be_held_out(tmp_path: Path, images: str) -> None:
    for share, match in ((1.0, "expected a share from 0 to 1"), (0.01, "of 10 images is 0: expected some, not all")):
        with pytest.raises(ConfigError, match=match):
            take(tmp_path, images, holdout=share)
    with pytest.raises(ConfigError, match="--holdout makes a split val of its own"):
        take(tmp_path, images, holdout=0.2, split="val")
    root = put(
        tmp_path / "masks",
        {f"{split}/{side}/a.png": png([[1]]) for split in ("train", "val") for side in ("images", "masks")},
    )
    with pytest.raises(ConfigError, match=r"the images have splits already \(train, val\)"):
        take(tmp_path, root, holdout=0.5)


def test_only_listed_images_are_taken_in(tmp_path: Path, images: str) -> None:
    lines = "\ufeffpart/0.jpg\n1\ndata/part/2.jpg\n/home/u/set/part/3.jpg\r\n./part/4.jpg\n\ngone.jpg\n"
    source = put(tmp_path, {"train.txt": lines.encode()}) + "/train.txt"
    report, dataset = take(tmp_path, images, image_list=source, split="train")
    assert dataset.images["file_name"].to_pylist() == [f"part/{i}.jpg" for i in range(5)]
    assert [(problem.kind, problem.examples) for problem in report.problems] == [("not-in-list", ("gone.jpg",))]
    assert dataset.document["sources"][0]["asked"]["image_list"] == source
    put(tmp_path, {"train.txt": b"x\ny\n"})
    with pytest.raises(DatasetError, match=r"none of the 2 lines of .*train\.txt names .* 10 images, such as part/0"):
        take(tmp_path, images, image_list=source)


def test_a_list_keeps_the_annotations_of_its_images(tmp_path: Path, images: str) -> None:
    truth = put_coco(
        tmp_path, coco([image(i + 1, f"part/{i}.jpg") for i in range(10)], [box(i + 1, i + 1) for i in range(10)])
    )
    source = put(tmp_path, {"list.txt": b"part/3.jpg\n"}) + "/list.txt"
    _, dataset = take(tmp_path, images, truth, image_list=source)
    assert rows(dataset.annotations, "annotation_id", "image_id") == [(4, 4)]


def test_images_of_the_same_bytes_are_reported(tmp_path: Path) -> None:
    large = encode(picture(400, 600, 1), "BMP")
    other = large[:-1] + bytes([large[-1] ^ 1])
    files = {"a.jpg": jpeg(1), "b.jpg": jpeg(1), "c.bmp": large, "d.bmp": other, "e.bmp": large}
    report, dataset = take(tmp_path, put(tmp_path / "set", files))
    assert len(large) > 1 << 16
    assert [(p.kind, p.examples) for p in report.problems] == [
        ("duplicate-image", ("b.jpg is a.jpg", "e.bmp is c.bmp"))
    ]
    assert dataset.images.num_rows == 5


def test_a_leak_between_splits_is_found_across_ingests(tmp_path: Path) -> None:
    train = put(tmp_path / "one", {"a.jpg": jpeg(1), "b.jpg": jpeg(2)})
    val = put(tmp_path / "two", {"c.jpg": jpeg(2), "d.jpg": jpeg(3)})
    take(tmp_path, train, split="train")
    report, before = take(tmp_path, train, split="train")
    assert report.problems == ()
    with pytest.raises(DatasetError, match=r"split-leak: 1 .*(?s:.)*b\.jpg of train is c\.jpg of val"):
        take(tmp_path, val, split="val", strict=True)
    report, _ = take(tmp_path, val, split="val")
    assert [(problem.kind, problem.examples) for problem in report.problems] == [
        ("split-leak", ("b.jpg of train is c.jpg of val",))
    ]
    put(tmp_path / "two", {"c.jpg": jpeg(4)})
    assert take(tmp_path, val, split="val")[0].problems == ()
    assert before.images.num_rows == 2
