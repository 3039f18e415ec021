"""Listing what lies at a place: odd suffixes, symbolic links, names that are not UTF-8, tars among other files."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shardlens.pipeline.annotations.catalog import Catalog
from shardlens.pipeline.annotations.first_bytes import DECODED, image_kind
from shardlens.pipeline.errors import DatasetError
from tests.annotations.tiny import Here, box, coco, image, jpeg, png, put, put_coco, rows, take, tar

HEIC = b"\0\0\0\x18ftypheic" + bytes(200)
DICOM = bytes(128) + b"DICM" + bytes(100)


@pytest.mark.parametrize(
    ("form", "kind"),
    [("JPEG", "JPEG"), ("PNG", "PNG"), ("WEBP", "WebP"), ("BMP", "BMP"), ("GIF", "GIF"), ("TIFF", "TIFF"), ("PPM", "PNM"),
     ("JPEG2000", "JPEG 2000"), ("AVIF", "AVIF")],
)  # fmt: skip
def test_kinds_are_told_by_their_first_bytes(form: str, kind: str) -> None:
    sink = io.BytesIO()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(sink, form)
    assert image_kind(sink.getvalue()[:132]) == kind
    assert kind in DECODED


@pytest.mark.parametrize("data", [b"", b"P", b"BM is a text", b"P6 is a text", b"II*", b"RIFF1234WAVE", b"\0" * 132])
def test_what_is_no_image(data: bytes) -> None:
    assert image_kind(data) is None


def test_images_of_any_suffix_are_taken_in_and_the_rest_is_counted(tmp_path: Path) -> None:
    names = ("a.jfif", "b.jpe", "c", "d.photo", "e.JPG")
    others = {"f.heic": HEIC, "g.dcm": DICOM, "h.txt": b"text", "i.xyz": b"text", "README": b"text", ".DS_Store": b"x"}
    root = put(tmp_path / "set", {name: jpeg(i) for i, name in enumerate(names)} | others)
    report, dataset = take(tmp_path, root)
    assert sorted(dataset.images["file_name"].to_pylist()) == sorted(names)
    assert dataset.images["width"].null_count == 0
    assert report.notes == (
        f"not read below {root}: 1 (no suffix), 1 .heic, 1 .dcm, 1 .txt, 1 .xyz",
        "1 files are HEIF images, which cannot be decoded: convert them to JPEG, PNG or TIFF",
        "1 files are DICOM images, which cannot be decoded: convert them to JPEG, PNG or TIFF",
    )
    assert report.problems == ()


def test_links_are_followed_within_the_root_and_not_in_circles(tmp_path: Path) -> None:
    root = Path(put(tmp_path / "set", {"all/a.jpg": jpeg(1), "b.jpg": jpeg(2)}))
    (root / "sub").symlink_to(root / "all")
    (root / "all" / "up").symlink_to(root)
    (root / "c.jpg").symlink_to("b.jpg")
    assert Catalog().images(str(root), Here()).names == ("all/a.jpg", "b.jpg", "c.jpg", "sub/a.jpg")
    (tmp_path / "link").symlink_to(root)
    assert Catalog().images(str(tmp_path / "link"), Here()).names[:2] == ("all/a.jpg", "b.jpg")


def test_a_tar_that_is_named_by_a_link_is_read(tmp_path: Path) -> None:
    put(tmp_path / "store", {"x.tar": tar({"a.jpg": jpeg()})})
    (tmp_path / "link.tar").symlink_to(tmp_path / "store" / "x.tar")
    report, dataset = take(tmp_path, str(tmp_path / "link.tar"))
    assert dataset.images["file_name"].to_pylist() == ["a.jpg"]
    assert not report.problems


def test_links_out_of_the_root_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", {"c.jpg": jpeg(3)})
    secret = put(tmp_path, {"secret": b"root:x:0:0"}) + "/secret"
    root = Path(put(tmp_path / "set", {"a.jpg": jpeg(1)}))
    (root / "p.jpg").symlink_to(secret)
    (root / "sub").symlink_to(tmp_path / "elsewhere")
    report, dataset = take(tmp_path, str(root))
    assert dataset.images["file_name"].to_pylist() == ["a.jpg"]
    assert [(p.kind, p.examples) for p in report.problems] == [("link-out", ("p.jpg", "sub"))]
    assert "root:x" not in str(report)
    report, dataset = take(tmp_path, str(root), follow_links=True, name="asked")
    assert dataset.images["file_name"].to_pylist() == ["a.jpg", "p.jpg", "sub/c.jpg"]


def test_a_file_name_of_coco_is_no_way_out_either(tmp_path: Path) -> None:
    secret = put(tmp_path, {"secret": b"root:x:0:0"}) + "/secret"
    root = Path(put(tmp_path / "set", {"a.jpg": jpeg(1)}))
    (root / "p.jpg").symlink_to(secret)
    truth = put_coco(tmp_path, coco([image(1, "a.jpg"), image(2, "p.jpg")], [box(1, 1), box(2, 2)]))
    report, dataset = take(tmp_path, str(root), truth)
    assert rows(dataset.annotations, "annotation_id", "image_id") == [(1, 1)]
    assert "link-out" in {problem.kind for problem in report.problems}
    assert "root:x" not in str(report)


@pytest.mark.skipif(os.name != "posix", reason="names of bytes")
def test_names_that_are_not_utf_8_cost_themselves_alone(tmp_path: Path) -> None:
    root = put(tmp_path / "set", {"a.jpg": jpeg(1)})
    with open(os.fsencode(root) + b"/caf\xe9.jpg", "wb") as file:
        file.write(jpeg(2))
    report, dataset = take(tmp_path, root)
    assert dataset.images["file_name"].to_pylist() == ["a.jpg"]
    assert [(p.kind, p.examples) for p in report.problems] == [("undecodable-name", ("caf\\xe9.jpg: left out",))]
    packed = put(tmp_path, {"x.tar": tar({"caf\udce9.jpg": jpeg(1), "b.jpg": jpeg(2)})}) + "/x.tar"
    report, dataset = take(tmp_path, packed, name="packed")
    assert dataset.images["file_name"].to_pylist() == ["b.jpg", "caf\\xe9.jpg"]
    assert dataset.images["width"].null_count == 0
    assert [problem.kind for problem in report.problems] == ["undecodable-name"]


def test_damaged_and_compressed_tars_cost_themselves_alone(tmp_path: Path) -> None:
    good, cut = tar({"a.jpg": jpeg(1)}), tar({"b.jpg": jpeg(2), "c.jpg": jpeg(3)})
    end = cut.index(jpeg(3)) + 100
    files = {"0.tar": good, "1.tar": cut[:end], "2.tar.gz": gzip.compress(good), "3.tar": b"", "notes.txt": b"x"}
    report, dataset = take(tmp_path, put(tmp_path / "set", files))
    assert dataset.images["file_name"].to_pylist() == ["a.jpg", "b.jpg"]
    assert [(problem.kind, problem.count) for problem in report.problems] == [("damaged-tar", 2), ("compressed-tar", 1)]
    with pytest.raises(DatasetError, match=r"2\.tar\.gz is a compressed tar"):
        take(tmp_path, put(tmp_path / "packed", {"2.tar.gz": gzip.compress(good)}))


def test_a_loose_image_next_to_tars_is_reported(tmp_path: Path) -> None:
    root = put(tmp_path / "set", {"0.tar": tar({"a.jpg": jpeg(1), "b.jpg": jpeg(2)}), "preview.png": png([[1, 0]])})
    report, dataset = take(tmp_path, root)
    assert dataset.images["file_name"].to_pylist() == ["a.jpg", "b.jpg"]
    assert [(problem.kind, problem.examples) for problem in report.problems] == [("loose-image", ("preview.png",))]


def test_a_single_image_is_a_dataset(tmp_path: Path) -> None:
    _, dataset = take(tmp_path, put(tmp_path / "set", {"a.jpg": jpeg(1)}) + "/a.jpg")
    assert rows(dataset.images, "file_name", "width") == [("a.jpg", 64)]


def test_names_that_two_tars_hold(tmp_path: Path) -> None:
    one, two = tar({"x/a.jpg": jpeg(1), "b.jpg": jpeg(2)}), tar({"y/a.jpg": jpeg(3), "b.jpg": jpeg(4)})
    root = put(tmp_path / "set", {"0.tar": one, "1.tar": two})
    listed = [image(1, "x/a.jpg"), image(2, "y/a.jpg"), image(3, "b.jpg"), image(4, "1/b.jpg")]
    report, dataset = take(tmp_path, root, put_coco(tmp_path, coco(listed, [box(1, 1)])))
    assert [uri[-5:] for uri in dataset.images["uri"].to_pylist()] == ["0.tar", "1.tar", "0.tar", "1.tar"]
    assert [(problem.kind, problem.count) for problem in report.problems] == [("repeated-member", 1)]
