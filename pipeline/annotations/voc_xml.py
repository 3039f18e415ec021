"""One XML file of Pascal VOC: the size of its image, and its boxes.

Format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/index.html
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

from shardlens.pipeline.annotations.source import Parsed, annotation_row, bbox_struct
from shardlens.pipeline.errors import DatasetError

OBJECTS = ("object", "objects/object")
"""Where a file's objects are; the second is of tools that group them."""
TRUE = ("1", "true", "yes")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
DECLARED = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["'][^>]*\?>""")


SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030"}
"""Encodings that files declare though their text is of a larger one."""


@dataclass(frozen=True)
class VocParser:
    """Parses one XML file."""

    def __call__(self, data: bytes, where: str, file_name: str) -> Parsed:
        """Read the boxes; `difficult` objects are to be ignored.

        Raises:
            DatasetError: it is not XML (with line and column), or not an annotation.
        """
        root = _tree(data, where)
        if root.tag != "annotation":
            cvat = (
                ", as in CVAT's own XML, which is not read: export COCO or Pascal VOC there"
                if root.tag == "annotations"
                else ""
            )
            raise DatasetError(f"{where}: the root element is <{root.tag}>, expected <annotation>{cvat}")
        rows = tuple(_row(element) for path in OBJECTS for element in root.findall(path))
        if not rows and any(element.tag in {"bndbox", *CORNERS} for element in root.iter()):
            raise DatasetError(f"{where}: it holds boxes, but no <object> below <annotation>, where they are expected")
        return Parsed(rows, _size(root), tuple(_stranger(root, where, file_name)))


def image_named(data: bytes) -> str | None:
    """The file name of the image that an XML file names, without folders; None if it names none."""
    try:
        root = _tree(data, "")
    except DatasetError:
        return None
    return _named(root).name or None


def _tree(data: bytes, where: str) -> ElementTree.Element:
    """Parse XML in any encoding that it declares and Python knows (expat itself knows few).

    Tags lose their namespace, and capitals, which some tools write.
    """
    try:
        root = ElementTree.fromstring(_decoded(data, where))
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2].lower()
        return root
    except ElementTree.ParseError as error:
        (line, column), reason = error.position, str(error).partition(": line")[0]
        raise DatasetError(f"{where}, line {line}, column {column + 1}: not XML ({reason})") from None


def _decoded(data: bytes, where: str) -> bytes | str:
    declared = DECLARED.match(data.lstrip())
    encoding = declared[1].decode("ascii").lower() if declared else "utf-8"
    if declared is None or encoding in {"utf-8", "utf8", "utf-16", "us-ascii"}:
        return data
    try:
        text = data.lstrip().decode(SUPERSETS.get(encoding, encoding))
    except (LookupError, UnicodeDecodeError) as error:
        raise DatasetError(f"{where}: its text is not of the encoding {encoding} that it declares ({error})") from None
    return text[len(declared[0].decode("ascii", "replace")) :]


def _row(element: ElementTree.Element) -> dict[str, Any]:
    box = _corners(element)
    row = {
        "category": (element.findtext("name") or "").strip() or None,
        "ignore": _text(element, "difficult").lower() in TRUE,
    }
    if box is None:
        return annotation_row(**row, flags=["unreadable-box"])
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    return annotation_row(**row, bbox=bbox_struct(left, top, width, height))


def _corners(element: ElementTree.Element) -> tuple[float, ...] | None:
    try:
        corners = tuple(float(_text(element, f"bndbox/{corner}")) for corner in CORNERS)
    except ValueError:
        return None
    return corners if all(map(math.isfinite, corners)) else None


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    width, height = _text(root, "size/width"), _text(root, "size/height")
    sides = width.isdecimal() and height.isdecimal() and max(len(width), len(height)) < 10
    return (int(width), int(height)) if sides else None


def _named(root: ElementTree.Element) -> PurePosixPath:
    return PurePosixPath(_text(root, "filename").replace("\\", "/"))


def _stranger(root: ElementTree.Element, where: str, file_name: str) -> list[tuple[str, str]]:
    """Report a file that names another image; suffix and folder are often stale and do not count."""
    named = _named(root)
    if not named.name or PurePosixPath(file_name).stem in {named.stem, named.name}:
        return []
    return [("annotation-of-another-image", f"{file_name}: {where} is of {named.name}")]
