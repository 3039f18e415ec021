"""Listing images below folders, prefixes and tars; plain datasets."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.annotations import places, plain
from shardlens.pipeline.annotations.catalog import Catalog
from shardlens.pipeline.annotations.places import Listing, below
from shardlens.pipeline.errors import DatasetError, LocationNotFoundError
from tests.annotations.tiny import Here, assembled, jpeg, put, rows, tar
from tests.conftest import Bucket


def images(uri: str) -> Listing:
    return Catalog().images(uri, Here())


ODD = ["a b.jpg", "c'd\".jpg", "é漢.jpg", "f#g%20[1]?.jpg", "h/i.JPEG"]


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "odd #%é")
    if request.param == "memory":
        return f"memory://{tmp_path.name}/odd"
    bucket: Bucket = request.getfixturevalue("s3")
    return f"{bucket.uri}/odd é"


def test_images_with_odd_names_are_listed_and_read(root: str) -> None:
    for name in [*ODD, "notes.txt", ".hidden.jpg", ".cache/x.jpg"]:
        storage.publish(storage.join(root, name), jpeg())
    content, problems, _ = assembled(plain.read, root)
    assert content.images["file_name"].to_pylist() == sorted(ODD)
    assert content.images["image_id"].to_pylist() == [1, 2, 3, 4, 5]
    assert content.images["width"].null_count == 0
    assert problems == {}
    assert content.annotations.num_rows == content.categories.num_rows == 0


def test_members_of_tars_are_listed(root: str) -> None:
    storage.publish(storage.join(root, "0.tar"), tar({"b.jpg": jpeg(1), "notes.txt": b"x"}))
    storage.publish(storage.join(root, "1.tar"), tar({"a.jpg": jpeg(2), "b.jpg": jpeg(3)}))
    content, problems, _ = assembled(plain.read, root)
    assert rows(content.images, "file_name", "flags") == [
        ("a.jpg", []),
        ("b.jpg", []),
        ("b.jpg", ["duplicate-file-name"]),
    ]
    uri, offset, length = rows(content.images, "uri", "offset", "length")[0]
    assert storage.read_range(uri, offset, length) == jpeg(2)
    assert problems == {"duplicate-file-name": 1}
    assert images(storage.join(root, "0.tar")).names == ("b.jpg",)


def test_a_place_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"no images below .*: expected files ending in \.jpg.*; it holds a\.txt, \.\.\."
    ):
        images(put(tmp_path / "x", {"a.txt": b""}))
    with pytest.raises(DatasetError, match=r"a\.tar\.gz is a compressed tar"):
        images(put(tmp_path / "y", {"a.tar.gz": b""}))
    with pytest.raises(LocationNotFoundError, match="nowhere: not found"):
        images(str(tmp_path / "nowhere"))


def test_tars_are_opened_unless_the_images_next_to_them_hold_more(tmp_path: Path) -> None:
    catalog = Catalog()
    closed = put(tmp_path / "closed", {"a.jpg": jpeg(), "backup.tar": b"not opened"})
    assert catalog.images(closed, Here()).names == ("a.jpg",)
    assert catalog.problems == []
    opened = put(tmp_path / "opened", {"preview.png": jpeg(), "0.tar": tar({"b.jpg": jpeg(), "c.jpg": jpeg()})})
    assert catalog.images(opened, Here()).names == ("b.jpg", "c.jpg")
    assert catalog.problems == [("loose-image", "preview.png")]


def test_below_keeps_inside_its_root() -> None:
    assert below("s3://b/x", "./a//b c.jpg") == "s3://b/x/a/b c.jpg"
    assert below("/x/", "..a.jpg") == "/x/..a.jpg"
    assert [below("/x", name) for name in ("/a", "../a", "a/..", "http://a", "", ".", "a\0")] == [None] * 7


def test_a_folder_that_all_names_share_may_be_left_out() -> None:
    found = places.Listing("/r", ("v/a.jpg", "v/w/b.jpg"), (("A", 1, 2), ("B", 3, 4)))
    assert found.find("v/a.jpg") == found.find("a.jpg") == ("A", 1, 2)
    assert found.find("w/b.jpg") == ("B", 3, 4)
    assert found.find("b.jpg") is None
