"""Formats that keep one annotation file for each image: which file belongs to which image, and to which split."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pyarrow as pa

from shardlens.pipeline import storage
from shardlens.pipeline.annotations.places import Listing, Place
from shardlens.pipeline.annotations.problems import Problems
from shardlens.pipeline.annotations.source import LISTED
from shardlens.pipeline.errors import DatasetError

NamedImage = Callable[[bytes], str | None]
"""From an annotation file's bytes to the file name of the image that it names."""


def stem(name: str) -> str:
    """The name without its suffix, folders kept: what an image and its annotation file have in common."""
    return str(PurePosixPath(name).with_suffix(""))


@dataclass(frozen=True)
class Layout:
    """Images and annotation files as they lie, before they are paired."""

    images: Listing
    sidecars: Listing
    keys: Mapping[str, str] = field(default_factory=dict)
    """File name (of image or annotation file) -> what pairs them; their stem where it is not named."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """Name of an image -> its split."""
    split: str | None = None
    """Split of the images that `splits` does not name."""

    def key(self, name: str) -> str:
        """What an image and its annotation file have in common."""
        return self.keys.get(name) or stem(name)


def pair(layout: Layout, problems: Problems, named: NamedImage | None = None) -> pa.Table:
    """List the images, each with its annotation file; in tars that of the same tar goes first.

    Images that only differ in their suffix share an annotation file, unless it names one of them.

    Args:
        named: reads from an annotation file which image it is of; None = files of this format do not name it.

    Returns:
        Rows of `LISTED`, sorted by file_name.

    Raises:
        DatasetError: no image has an annotation file.
    """
    images = list(zip(layout.images.names, layout.images.places, strict=True))
    files = _Files(layout)
    sidecars = [files.of(layout.key(name), place) for name, place in images]
    if not any(sidecars):
        raise DatasetError(_unpaired(layout))
    others = _shared(layout.images, sidecars, problems, named)
    sidecars = [None if row in others else file for row, file in enumerate(sidecars)]
    alone = [name for (name, _), file in zip(images, sidecars, strict=True) if file is None]
    problems.add("image-without-annotation", len(alone), alone)
    used = {file for file in sidecars if file is not None}
    orphans = [
        name for name, place in zip(layout.sidecars.names, layout.sidecars.places, strict=True) if place not in used
    ]
    problems.add("annotation-without-image", len(orphans), orphans)
    return _table(layout, sidecars)


class _Files:
    """The annotation files by key, and by the tar that holds them."""

    def __init__(self, layout: Layout) -> None:
        self._near: dict[tuple[str, str], Place] = {}
        self._any: dict[str, Place] = {}
        for name, place in zip(layout.sidecars.names, layout.sidecars.places, strict=True):
            self._near.setdefault((layout.key(name), place[0]), place)
            self._any.setdefault(layout.key(name), place)

    def of(self, key: str, image: Place) -> Place | None:
        """The file of the image with this key, at this place."""
        return self._near.get((key, image[0])) or self._any.get(key)


def _shared(
    images: Listing, sidecars: Sequence[Place | None], problems: Problems, named: NamedImage | None
) -> set[int]:
    """Rows of the images that share an annotation file which names another image; all that share one are reported."""
    owners: dict[Place, list[int]] = {}
    for row, place in enumerate(sidecars):
        if place is not None:
            owners.setdefault(place, []).append(row)
    shared = {place: rows for place, rows in owners.items() if len(rows) > 1}
    texts = storage.read_many(list(shared)) if named else [b""] * len(shared)
    strangers: set[int] = set()
    for (place, rows), data in zip(shared.items(), texts, strict=True):
        owner = named(data) if named and isinstance(data, bytes) else None
        mine = [row for row in rows if PurePosixPath(images.names[row]).name == owner]
        listed = " and ".join(images.names[row] for row in rows)
        ends = f", which names {owner}: it is taken for that image alone" if len(mine) == 1 else ""
        problems.one("shared-annotation", f"{listed} share {posixpath.basename(place[0])}{ends}")
        strangers |= set(rows) - set(mine) if len(mine) == 1 else set()
    return strangers


def _table(layout: Layout, sidecars: Sequence[Place | None]) -> pa.Table:
    columns = {
        "file_name": layout.images.names,
        **place_columns("", layout.images.places),
        "split": [layout.splits.get(name, layout.split) for name in layout.images.names],
        "flags": [[] if place else ["image-without-annotation"] for place in sidecars],
        **place_columns("sidecar_", [place or (None, None, None) for place in sidecars]),
    }
    return listed(columns, len(sidecars))


def place_columns(prefix: str, places: Iterable[Place | tuple[None, None, None]]) -> dict[str, Sequence[object]]:
    """Columns `uri`, `offset` and `length` of one place or more, their names after `prefix`."""
    uris, offsets, lengths = zip(*places, strict=True)
    return {f"{prefix}uri": uris, f"{prefix}offset": offsets, f"{prefix}length": lengths}


def listed(columns: Mapping[str, Sequence[object]], rows: int) -> pa.Table:
    """Make a table of `LISTED`, absent columns null."""
    arrays = [pa.array(columns.get(column.name, [None] * rows), column.type) for column in LISTED]
    return pa.Table.from_arrays(arrays, schema=LISTED)


def _unpaired(layout: Layout) -> str:
    image, others = layout.images.names[0], layout.sidecars.names
    holds = f"which holds {len(others)} others, such as {others[0]}" if others else "which holds no such files"
    return (
        f"none of the {len(layout.images.names)} images below {layout.images.root} has an annotation file of the same "
        f"stem below {layout.sidecars.root}, {holds}: expected one like {stem(image)} for {image}"
    )
