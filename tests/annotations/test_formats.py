"""Telling a format from what lies at the places, and adding one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shardlens.pipeline.annotations import formats
from shardlens.pipeline.annotations.categories import ByName
from shardlens.pipeline.annotations.pairing import Layout, pair
from shardlens.pipeline.annotations.problems import Problems
from shardlens.pipeline.annotations.source import Format, Look, Parsed, Request, Source, annotation_row, bbox_struct
from shardlens.pipeline.errors import ConfigError, DatasetError
from shardlens.pipeline.warehouse import tables
from tests.annotations.tiny import Here, jpeg, png, put, rows, take, tar, voc_object, xml

MASK = png([[0, 1]])


def detect(images: str, annotations: str | None = None) -> str:
    return formats.detect(Look(Request(images, annotations), Here()))[0].name


def test_the_format_is_told_from_names(tmp_path: Path) -> None:
    plain_root = put(tmp_path / "plain", {"a.jpg": b"", "deep/b.jpg": b""})
    voc_root = put(tmp_path / "voc", {"Annotations/a.xml": b"", "JPEGImages/a.jpg": b""})
    masks_root = put(tmp_path / "masks", {"train/images/a.jpg": b"", "train/masks/a.png": b""})
    assert detect("s3://b/images", "s3://b/Instances.JSON") == "coco"
    assert detect(plain_root) == "none"
    assert detect(voc_root) == detect("/x", voc_root) == detect("/x", f"{voc_root}/Annotations") == "voc"
    assert (
        detect(masks_root)
        == detect("/x", f"{masks_root}/train")
        == detect("/x", f"{masks_root}/train/masks")
        == "masks"
    )
    with pytest.raises(
        DatasetError, match=r"cannot be told \(it holds a\.jpg, deep/\).*--format, one of coco, voc, masks, none"
    ):
        detect("/x", plain_root)
    with pytest.raises(ConfigError, match="annotation format 'yolo': expected auto or one of coco, voc, masks, none"):
        formats.find("yolo")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("Images/a.jpg", "Masks/a.png"), "masks"),
        (("image/a.jpg", "mask/a.png"), "masks"),
        (("images/a.jpg", "labels/a.png"), "masks"),
        (("images/a.jpg", "images/labels/a.png"), "masks"),
        (("train/images/a.jpg", "train/labels/a.txt"), "none"),
        (("a.jpg", "a_mask.png"), "masks"),
        (("a.jpg", "a.seg.png"), "masks"),
        (("a.jpg", "b.jpg", "c.jpg", "c_mask.png"), "none"),
        (("VOCdevkit/VOC2012/Annotations/a.xml", "VOCdevkit/VOC2012/JPEGImages/a.jpg"), "voc"),
    ],
)
def test_layouts_are_recognized_in_folders_and_tars(tmp_path: Path, names: tuple[str, ...], expected: str) -> None:
    files = {name: xml("a.jpg") if name.endswith(".xml") else MASK for name in names}
    assert detect(put(tmp_path / "set", files)) == expected
    assert detect(put(tmp_path, {"set.tar": tar(files)}) + "/set.tar") == expected


class Sides:
    """A format of our own: `<stem>.box` holds name, x, y, width and height."""

    def __call__(self, data: bytes, where: str, file_name: str) -> Parsed:
        name, *numbers = data.decode().split()
        return Parsed((annotation_row(category=name, bbox=bbox_struct(*map(float, numbers))),))


def read(request: Request, executor: Any) -> Source:
    problems = Problems()
    images = request.catalog.images(request.images, executor)
    boxes = request.catalog.listing(request.images, (".box",), executor)
    empty = tables.from_rows([], tables.ANNOTATIONS)
    return Source(pair(Layout(images, boxes), problems), empty, ByName(), Sides(), problems=problems)


def recognizes(look: Look) -> str | None:
    return ".box files" if any(name.endswith(".box") for name in look.files.names) else None


def test_a_format_is_one_module_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"box": Format("box", read, recognizes)}
    monkeypatch.setattr(formats, "FORMATS", own | formats.FORMATS)
    put(tmp_path / "set", {"a.jpg": jpeg(), "a.box": b"cat 1 2 10 20"})
    for asked in ("auto", "box"):
        report, dataset = take(tmp_path, str(tmp_path / "set"), format=asked)
        assert rows(dataset.annotations, "category", "area") == [("cat", 200.0)]
        assert (report.format, report.problems) == ("box", ())


def test_the_first_line_says_which_format_and_why(tmp_path: Path) -> None:
    put(tmp_path / "voc", {"JPEGImages/a.jpg": jpeg(), "Annotations/a.xml": xml("a.jpg", voc_object("cat"))})
    report, _ = take(tmp_path, str(tmp_path / "voc"))
    assert str(report).splitlines()[0] == f"format voc: Annotations/ in {tmp_path}/voc holds XML files"
    report, _ = take(tmp_path, str(tmp_path / "voc" / "JPEGImages"), format="none", name="plain")
    assert str(report).splitlines()[0] == "format none: as --format says"
