"""Pascal VOC XML: one file of boxes for each image; the lists in ImageSets/Main are the splits.

A box keeps its corners as written: x, y = xmin, ymin; width, height = xmax - xmin, ymax - ymin. So do CVAT and
Datumaro, and LabelImg (which writes most of today's files) draws between corners. VOC's own devkit counts pixels from 1
with both ends inside; readers that follow it shift a box by one pixel.
Format: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/index.html
"""

from __future__ import annotations

import posixpath

from shardlens.pipeline import storage
from shardlens.pipeline.annotations.categories import ByName
from shardlens.pipeline.annotations.pairing import Layout, pair
from shardlens.pipeline.annotations.places import Listing, is_tar
from shardlens.pipeline.annotations.problems import Problems
from shardlens.pipeline.annotations.source import Format, Look, Request, Source
from shardlens.pipeline.annotations.voc_lists import ImageSets, in_splits
from shardlens.pipeline.annotations.voc_xml import VocParser, image_named
from shardlens.pipeline.executors.base import Executor
from shardlens.pipeline.warehouse import tables

XML, IMAGES = "Annotations/", "JPEGImages/"


def read(request: Request, executor: Executor) -> Source:
    """Pair images and XML files; `request.annotations` is a folder of XML files, or a VOC root with its split lists."""
    problems = Problems()
    root = request.annotations or request.images
    files = request.catalog.files(root, executor)
    top = _top(files)
    xml_files = _below(files, "" if top is None else top + XML).only(_is_xml)
    layout = Layout(_images(request, executor), xml_files, split=request.split)
    lists = ImageSets.read(files, top) if top is not None else ImageSets({})
    request.catalog.used |= lists.places
    if lists.names:
        layout = in_splits(layout, lists, request.split, problems)
    elif request.annotations is not None and top is None:
        _note_lists(root, problems)
    listed = pair(layout, problems, image_named)
    categorize = ByName(request.classes)
    empty = tables.from_rows([], tables.ANNOTATIONS)
    return Source(listed, empty, categorize, VocParser(), has_category_ids=bool(request.classes), problems=problems)


def recognizes(look: Look) -> str | None:
    """A folder Annotations of XML files lies there, or annotations are named that are XML files."""
    top = _top(look.files)
    if top is not None:
        return f"{top}{XML} in {look.root} holds XML files"
    if look.request.annotations is not None and any(map(_is_xml, look.files.names)):
        return f"{look.root} holds XML files"
    return None


FORMAT = Format("voc", read, recognizes)


def _is_xml(name: str) -> bool:
    return name.lower().endswith(".xml")


def _top(files: Listing) -> str | None:
    """The folder with the folder Annotations of XML files in it, "" for the root itself; the first if there are several."""
    tops = {name.rpartition(XML)[0] for name in files.names if _is_xml(name) and f"/{XML}" in f"/{name}"}
    return min(
        (top for top in tops if top == "" or top.endswith("/")), key=lambda top: (top.count("/"), top), default=None
    )


def _images(request: Request, executor: Executor) -> Listing:
    images = request.catalog.images(request.images, executor)
    top = _top(request.catalog.files(request.images, executor))
    folder = (top or "") + IMAGES
    inside = _below(images, folder)
    return inside if inside.names else images


def _below(files: Listing, folder: str) -> Listing:
    """The files in a folder of the listing, their names relative to it."""
    chosen = files.only(lambda name: name.startswith(folder))
    names = tuple(name.removeprefix(folder) for name in chosen.names)
    root = files.root if is_tar(files.root) else storage.join(files.root, folder)
    return Listing(root, names, chosen.places, chosen.others)


def _note_lists(root: str, problems: Problems) -> None:
    """Note that the split lists next to a folder of XML files are not used."""
    folder, name = posixpath.split(root)
    if f"{name}/" == XML and "ImageSets/" in storage.children(folder):
        problems.note(
            f"the split lists in {storage.join(folder, 'ImageSets')} were not used: --annotations {folder} takes them"
        )
