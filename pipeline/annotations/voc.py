"""Pascal VOC XML: one file of boxes for each image; the lists in ImageSets/Main are the splits.

A box keeps its corners as written: x, y = xmin, ymin; width, height = xmax - xmin, ymax - ymin. So do CVAT and
Datumaro, and LabelImg (which writes most of today's files) draws between corners. VOC's own devkit counts pixels from 1
with both ends inside; readers that follow it shift a box by one pixel.
Format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/index.html
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree

from shardlens.pipeline import storage
from shardlens.pipeline.annotations import places
from shardlens.pipeline.annotations.categories import ByName
from shardlens.pipeline.annotations.pairing import Layout, pair, stem
from shardlens.pipeline.annotations.places import Listing
from shardlens.pipeline.annotations.problems import Problems
from shardlens.pipeline.annotations.source import Parsed, Request, Source, annotation_row, bbox_struct
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.executors.base import Executor
from shardlens.pipeline.warehouse import tables

SPLITS = ("train", "val", "test")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read(request: Request, executor: Executor) -> Source:
    """Pair images and XML files; `request.annotations` is a folder of XML files, or a VOC root with its split lists."""
    problems = Problems()
    root = request.annotations or request.images
    folders = storage.children(root) if not places.is_tar(root) else []
    xml_root = storage.join(root, "Annotations") if "Annotations/" in folders else root
    images = places.images(_image_root(request.images), executor)
    files = places.listing(xml_root, (".xml",), executor)
    lists = _lists(storage.join(root, "ImageSets", "Main")) if "ImageSets/" in folders else {}
    layout = Layout(images, files, split=request.split)
    if lists:
        layout = _split(layout, lists, request.split, problems)
    listed = pair(layout, problems)
    categorize = ByName(request.classes)
    empty = tables.from_rows([], tables.ANNOTATIONS)
    return Source(listed, empty, categorize, VocParser(), has_category_ids=bool(request.classes), problems=problems)


def _image_root(uri: str) -> str:
    if places.is_tar(uri) or "JPEGImages/" not in storage.children(uri):
        return uri
    return storage.join(uri, "JPEGImages")


def _lists(folder: str) -> dict[str, list[str]]:
    """Names listed in each `<split>.txt` of `folder`; VOC's per-class lists hold the same images and are left."""
    names = [name for name in storage.children(folder) if name.endswith(".txt")]
    whole = [name for name in names if "_" not in name]
    texts = {name: storage.read(storage.join(folder, name)).decode("utf-8", "replace") for name in whole}
    return {stem(name): [line.strip() for line in text.splitlines() if line.strip()] for name, text in texts.items()}


def _split(layout: Layout, lists: Mapping[str, list[str]], wanted: str | None, problems: Problems) -> Layout:
    """Give images the split whose list names them; with one split wanted, keep its images alone."""
    if wanted is not None and wanted not in lists:
        raise DatasetError(
            f"split {wanted!r} has no list in ImageSets/Main, which has {', '.join(sorted(lists)) or 'none'}: "
            "name one of them, or leave --split out to take in train, val and test"
        )
    splits: dict[str, str] = {}
    by_stem = {stem(name): name for name in layout.images.names}
    for split in [wanted] if wanted else [name for name in SPLITS if name in lists]:
        for line in lists[split]:
            name = by_stem.get(line) or by_stem.get(line.split()[0])
            if name is None:
                problems.one("annotation-without-image", f"{line}, listed in {split}.txt")
            elif splits.setdefault(name, split) != split:
                problems.one("in-two-splits", f"{name}: {splits[name]} and {split}")
    if wanted is None:
        return Layout(layout.images, layout.sidecars, splits=splits)
    return Layout(_only(layout.images, splits), _only_stems(layout.sidecars, splits), splits=splits)


def _only(images: Listing, names: Mapping[str, str]) -> Listing:
    kept = [(name, place) for name, place in zip(images.names, images.places, strict=True) if name in names]
    return Listing(images.root, tuple(name for name, _ in kept), tuple(place for _, place in kept))


def _only_stems(files: Listing, names: Mapping[str, str]) -> Listing:
    stems = {stem(name) for name in names}
    return _only(files, {name: "" for name in files.names if stem(name) in stems})


@dataclass(frozen=True)
class VocParser:
    """Parses one XML file."""

    def __call__(self, data: bytes, where: str, file_name: str) -> Parsed:
        """Read the boxes; `difficult` objects are to be ignored.

        Raises:
            DatasetError: it is not XML (with line and column), or not an annotation.
        """
        try:
            root = ElementTree.fromstring(data)
        except ElementTree.ParseError as error:
            (line, column), reason = error.position, str(error).partition(": line")[0]
            raise DatasetError(f"{where}, line {line}, column {column + 1}: not XML ({reason})") from None
        if root.tag != "annotation":
            raise DatasetError(f"{where}: the root element is <{root.tag}>, expected <annotation>")
        rows = tuple(_row(found) for found in root.findall("object"))
        return Parsed(rows, _size(root), tuple(_stranger(root, where, file_name)))


def _row(found: ElementTree.Element) -> dict[str, Any]:
    box = _corners(found)
    row = {"category": (found.findtext("name") or "").strip() or None, "ignore": _text(found, "difficult") == "1"}
    if box is None:
        return annotation_row(**row, flags=["unreadable-box"])
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    return annotation_row(**row, bbox=bbox_struct(left, top, width, height))


def _corners(found: ElementTree.Element) -> tuple[float, ...] | None:
    try:
        corners = tuple(float(_text(found, f"bndbox/{corner}")) for corner in CORNERS)
    except ValueError:
        return None
    return corners if all(map(math.isfinite, corners)) else None


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    width, height = _text(root, "size/width"), _text(root, "size/height")
    return (int(width), int(height)) if width.isdecimal() and height.isdecimal() else None


def _stranger(root: ElementTree.Element, where: str, file_name: str) -> list[tuple[str, str]]:
    """Tell whether the file names another image; suffix and folder are often stale and do not count."""
    named = PurePosixPath(_text(root, "filename").replace("\\", "/"))
    if not named.name or PurePosixPath(file_name).stem in {named.stem, named.name}:
        return []
    return [("annotation-of-another-image", f"{file_name}: {where} is of {named.name}")]
