"""Pascal VOC files and folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.annotations.tiny import tar, voc_object, xml
from tests.corpus.case import Case, Given, Ingested, Refused
from tests.corpus.files import HEIGHT, WIDTH, jpeg

XML = xml("a.jpg", voc_object("cat"), width=WIDTH, height=HEIGHT)


def voc_given(data: bytes = XML) -> Given:
    """One image with its XML next to it."""
    return Given({"all/a.jpg": jpeg(), "all/a.xml": data}, {"images": "all", "annotations": "all"})


def root_given(images: Sequence[str], files: Mapping[str, bytes]) -> Given:
    """A VOC root with images and XML files."""
    pictures = {f"voc/JPEGImages/{name}": jpeg(i) for i, name in enumerate(images)}
    return Given({**pictures, **{f"voc/{name}": data for name, data in files.items()}}, {"images": "voc"})


def declared(encoding: str, name: str) -> bytes:
    """An annotation of an object called `name`, in an encoding that its first line declares."""
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?>\n'
        + xml("a.jpg", voc_object(name), width=WIDTH, height=HEIGHT).decode()
    )
    return text.encode(encoding)


def listed(names: bytes) -> Given:
    """Two images, and a list of the training images."""
    files = {"Annotations/a.xml": XML, "Annotations/b.xml": XML.replace(b"a.jpg", b"b.jpg")}
    return root_given(["a.jpg", "b.jpg"], {**files, "ImageSets/Main/train.txt": names})


def tree() -> dict[str, bytes]:
    """A VOC tree as it lies in the published tar."""
    return {"VOCdevkit/VOC2012/JPEGImages/a.jpg": jpeg(), "VOCdevkit/VOC2012/Annotations/a.xml": XML}


TRAIN_AND_NONE = Ingested({"images.split": ["train", None]})


def respelled(*pairs: tuple[bytes, bytes]) -> bytes:
    """The usual annotation with other tags."""
    data = XML
    for old, new in pairs:
        data = data.replace(old, new)
    return data


CAT = Ingested({"annotations.category": ["cat"]}, {})
GROUPED = respelled((b"<object>", b"<objects><object>"), (b"</object>", b"</object></objects>"))
CAPITALS = respelled((b"object>", b"Object>"), (b"bndbox>", b"BndBox>"), (b"xmin>", b"Xmin>"))
NAMESPACE = respelled((b"<annotation>", b'<annotation xmlns="http://example.org/voc">'))
ITEMS = respelled((b"object>", b"item>"))
TRUE = respelled((b"<difficult>0", b"<difficult>True"))

CASES = [
    Case("grouped", lambda: voc_given(GROUPED), CAT),
    Case("capitals", lambda: voc_given(CAPITALS), CAT),
    Case("namespace", lambda: voc_given(NAMESPACE), CAT),
    Case(
        "boxes-of-no-object", lambda: voc_given(ITEMS), Refused(r"it holds boxes, but no <object> below <annotation>")
    ),
    Case("difficult-as-true", lambda: voc_given(TRUE), Ingested({"annotations.ignore": [True]}, {})),
    Case("usual", voc_given, Ingested({"annotations.category": ["cat"], "annotations.bbox.x": [1.0]})),
    Case("byte-order-mark", lambda: voc_given(b"\xef\xbb\xbf" + XML), Ingested({"annotations.category": ["cat"]})),
    Case("gb2312", lambda: voc_given(declared("gb2312", "猫")), Ingested({"annotations.category": ["猫"]})),
    Case("gbk", lambda: voc_given(declared("gbk", "貓")), Ingested({"annotations.category": ["貓"]})),
    Case("shift-jis", lambda: voc_given(declared("shift_jis", "猫")), Ingested({"annotations.category": ["猫"]})),
    Case(
        "windows-1251", lambda: voc_given(declared("windows-1251", "кот")), Ingested({"annotations.category": ["кот"]})
    ),
    Case("utf-16", lambda: voc_given(declared("utf-16", "猫")), Ingested({"annotations.category": ["猫"]})),
    Case(
        "unknown-encoding-costs-one",
        lambda: root_given(
            ["a.jpg", "b.jpg"],
            {"Annotations/a.xml": XML, "Annotations/b.xml": declared("utf-8", "x").replace(b"utf-8", b"x-odd")},
        ),
        Ingested({"images.flags": [[], ["unreadable-annotation"]]}, {"unreadable-annotation": 1}),
    ),
    Case("list-of-stems", lambda: listed(b"a\n"), TRAIN_AND_NONE),
    Case("list-of-names", lambda: listed(b"a.jpg\n"), TRAIN_AND_NONE),
    Case("list-of-paths", lambda: listed(b"./JPEGImages/a.jpg\n"), TRAIN_AND_NONE),
    Case("list-of-absolute-paths", lambda: listed(b"/home/u/VOC/JPEGImages/a.jpg 1\n"), TRAIN_AND_NONE),
    Case("list-with-mark", lambda: listed(b"\xef\xbb\xbfa\r\n"), TRAIN_AND_NONE),
    Case("list-in-utf-16", lambda: listed("a\n".encode("utf-16")), TRAIN_AND_NONE),
    Case(
        "two-images-of-one-stem",
        lambda: root_given(["a.jpg", "a.png"], {"Annotations/a.xml": XML}),
        Ingested(
            {"images.flags": [[], ["image-without-annotation"]], "annotations.image_id": [1]},
            {"shared-annotation": 1, "image-without-annotation": 1},
        ),
    ),
    Case(
        "two-images-of-one-stem-and-none-named",
        lambda: root_given(["a.jpg", "a.png"], {"Annotations/a.xml": XML.replace(b"a.jpg", b"")}),
        Ingested({"annotations.image_id": [1, 2]}, {"shared-annotation": 1}),
    ),
    Case(
        "tar", lambda: Given({"x.tar": tar(tree())}, {"images": "x.tar"}), Ingested({"annotations.category": ["cat"]})
    ),
    Case("devkit", lambda: Given(tree(), {"images": "VOCdevkit"}), Ingested({"annotations.category": ["cat"]})),
    Case("no-boxes", lambda: voc_given(xml("a.jpg", width=WIDTH, height=HEIGHT)), Ingested({"images.flags": [[]]})),
]
