"""The images of a COCO file and where they lie: by their names below a folder or in tars, and what else lies there."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from shardlens.pipeline import storage
from shardlens.pipeline.annotations import places
from shardlens.pipeline.annotations.coco_document import Document, Entry
from shardlens.pipeline.annotations.coco_ids import NO_ID, unused
from shardlens.pipeline.annotations.name_matching import matches
from shardlens.pipeline.annotations.places import Listing, Place
from shardlens.pipeline.annotations.problems import Problems
from shardlens.pipeline.annotations.source import LISTED, Request, RowBuffer
from shardlens.pipeline.errors import AccessDeniedError, DatasetError, LocationNotFoundError
from shardlens.pipeline.executors.base import Executor

NO_IMAGES = {"masks", "mask", "labels", "label", "annotations", "annotation", "segmentation", "segmentations"}
"""Folders whose pictures are annotations."""
REMEDY = "give the folder that the file names start from with --images"


@dataclass(frozen=True)
class Placed:
    """The images of a file, with their places."""

    images: pa.Table
    """Rows of `LISTED`."""
    hints: Mapping[str, str] = field(default_factory=dict)
    """file_name of an image -> the one file that it could mean, in words."""
    unlisted: pa.Table | None = None
    """Rows of `LISTED`: the images that lie there and that the file does not list."""


@dataclass(frozen=True)
class _Finder:
    """Finds the place of a name."""

    root: str
    files: Listing
    """Images that lie at the root; none where it cannot be listed."""
    in_tars: bool
    guesses: Mapping[str, str] = field(default_factory=dict)

    def find(self, file_name: str) -> Place | None:
        """The place of a file that is listed under this name."""
        name = relative(self.root, file_name)
        if name is None:
            return None
        return self.files.find(name) if self.in_tars else self.files.by_name.get(name)

    def expected(self, file_name: str) -> Place | None:
        """Where the file should lie; it may do so unlisted, hidden or under a suffix of no image."""
        uri = places.below(self.root, relative(self.root, file_name) or "")
        return None if uri is None else (uri, None, None)


def relative(root: str, file_name: str) -> str | None:
    """The name below `root`, also of an absolute path or URI; None if it leads elsewhere."""
    path = storage.normalize(file_name) if file_name.startswith("file:///") else file_name
    prefix = root.rstrip("/") + "/"
    name = path[len(prefix) :] if path.startswith(prefix) else path
    return None if places.below(root, name) is None else posixpath.normpath(name)


def place(
    document: Document, numbers: Sequence[int], request: Request, executor: Executor, problems: Problems
) -> Placed:
    """Make the table of images; one that leads out of the root, or repeats another entry, is left out.

    Raises:
        DatasetError: every name leads out of the root.
    """
    finder = _finder(request, document, executor)
    images, hints = RowBuffer(LISTED), dict[str, str]()
    for entry, number, flags in _distinct(document.images, numbers, problems):
        spot, guess = f"image {number}: {entry.file_name}", finder.guesses.get(entry.file_name)
        found = finder.find(entry.file_name)
        if found is None and guess is not None and request.match_names:
            found = finder.files.by_name[guess]
            problems.one("matched-name", f"{spot} is {guess}")
            flags.append("matched-name")
        expected = found or finder.expected(entry.file_name)
        could = f"; {guess} could be it, --match-names takes it" if guess else ""
        if expected is None:
            problems.one("outside-root", f"image {number}: file_name {entry.file_name!r}{could}")
            continue
        if found is None and guess:
            hints[entry.file_name] = could
        if found is None and finder.in_tars:
            flags.append("missing-image")
            problems.one("missing-image", f"{spot} is no member of the tars{could}")
        row = _row(entry, number, expected, flags, relative(finder.root, entry.file_name), request.split)
        images.add({**row, "source_id": None} if "duplicate-image-id" in flags else row)
    if not images.rows:
        raise DatasetError(_none_inside(document, finder))
    table = images.table()
    return Placed(table, hints, _unlisted(finder, _images(request, finder.files, executor), table, request.split))


def _row(
    entry: Entry, number: int, found: Place, flags: list[str], name: str | None, split: str | None
) -> dict[str, Any]:
    uri, offset, length = found
    is_absolute = name is not None and entry.file_name.endswith(f"/{name}") and not places.below("", entry.file_name)
    file_name = name if is_absolute else entry.file_name
    row = {"image_id": number, "file_name": file_name, "uri": uri, "offset": offset, "length": length, "flags": flags}
    width, height = entry.size
    return {**row, "width": width, "height": height, "split": split, "source_id": entry.source_id}


def _distinct(
    entries: Sequence[Entry], numbers: Sequence[int], problems: Problems
) -> list[tuple[Entry, int, list[str]]]:
    """Entries with ids of their own, and their flags; the second of two of the same id and name is left out."""
    names: dict[int, str] = {}
    fresh = iter(unused(numbers, len(numbers) - len(set(numbers))))
    kept: list[tuple[Entry, int, list[str]]] = []
    for entry, number in zip(entries, numbers, strict=True):
        if names.get(number) == entry.file_name:
            problems.one("repeated-image", f"image {number}: {entry.file_name}")
            continue
        flags, image_id = ["unreadable-id"] if entry.number == NO_ID else [], number
        if number in names:
            image_id = next(fresh)
            flags.append("duplicate-image-id")
            problems.one(
                "duplicate-image-id",
                f"id {number} of {names[number]} again for {entry.file_name}, kept under another",
            )
        names[image_id] = entry.file_name
        kept.append((entry, image_id, flags))
    return kept


def _finder(request: Request, document: Document, executor: Executor) -> _Finder:
    root, files = request.images, _files(request, executor)
    in_tars = places.is_tar(root) or any(offset is not None for _, offset, _ in files.places)
    finder = _Finder(root, files, in_tars)
    names = [entry.file_name for entry in document.images]
    there = {name: finder.find(name) for name in names}
    by_place = dict(zip(files.places, files.names, strict=True))
    taken = [by_place[place] for place in there.values() if place is not None]
    return _Finder(root, files, in_tars, matches([n for n in names if there[n] is None], files.names, taken))


def _files(request: Request, executor: Executor) -> Listing:
    """What lies at the root; nothing where nothing is there, or where it may be read and not listed."""
    root = request.images
    if root.startswith(("http://", "https://")):
        return Listing(root, (), ())
    try:
        return request.catalog.files(root, executor)
    except AccessDeniedError:
        return Listing(root, (), ())
    except LocationNotFoundError:
        storage.children(root)  # raises if there is no such bucket
        return Listing(root, (), ())


def _images(request: Request, files: Listing, executor: Executor) -> Listing:
    try:
        return request.catalog.images(files.root, executor) if files.names else files
    except DatasetError:  # there are none
        return Listing(files.root, (), ())


def _unlisted(finder: _Finder, there: Listing, images: pa.Table, split: str | None) -> pa.Table:
    """Those of the images `there` in the folders of listed ones, or below these, that are not listed."""
    listed = set(zip(*(images[column].to_pylist() for column in ("uri", "offset", "length")), strict=True))
    folders = {posixpath.dirname(name) for name, place in _pairs(finder.files) if place in listed}
    rows = RowBuffer(LISTED)
    for name, (uri, offset, length) in _pairs(there):
        if (uri, offset, length) not in listed and _is_below(name, folders):
            row = {"file_name": name, "uri": uri, "offset": offset, "length": length, "flags": ["unlisted-image"]}
            rows.add({**row, "split": split})
    return rows.table()


def _pairs(files: Listing) -> Iterator[tuple[str, Place]]:
    return zip(files.names, files.places, strict=True)


def _is_below(name: str, folders: set[str]) -> bool:
    parents = []
    folder = posixpath.dirname(name)
    while folder and folder not in folders:
        parents.append(posixpath.basename(folder).lower())
        folder = posixpath.dirname(folder)
    return folder in folders and not NO_IMAGES & set(parents)


def _none_inside(document: Document, finder: _Finder) -> str:
    first = document.images[0].file_name
    guess = finder.guesses.get(first)
    could = f"; {guess} could be it: --match-names takes what only one file could be" if guess else f"; {REMEDY}"
    return (
        f"{document.where}: every file_name of its {len(document.images)} images leads out of {finder.root} "
        f"(the first: {first!r}){could}"
    )
