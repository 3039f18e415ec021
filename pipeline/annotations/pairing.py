"""Formats that keep one annotation file beside each image: which file belongs to which image, and to which split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pyarrow as pa

from shardlens.pipeline.annotations.places import Listing, Place
from shardlens.pipeline.annotations.problems import Problems
from shardlens.pipeline.annotations.source import LISTED
from shardlens.pipeline.errors import DatasetError


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


def pair(layout: Layout, problems: Problems) -> pa.Table:
    """List the images, each with its annotation file.

    Returns:
        Rows of `LISTED`, sorted by file_name.

    Raises:
        DatasetError: no image has an annotation file.
    """
    by_key = {
        layout.key(name): place for name, place in zip(layout.sidecars.names, layout.sidecars.places, strict=True)
    }
    wanted = [layout.key(name) for name in layout.images.names]
    sidecars = [by_key.get(key) for key in wanted]
    if not any(sidecars):
        raise DatasetError(_unpaired(layout))
    alone = [name for name, place in zip(layout.images.names, sidecars, strict=True) if place is None]
    problems.add("image-without-annotation", len(alone), alone)
    known = set(wanted)
    orphans = [name for name in layout.sidecars.names if layout.key(name) not in known]
    problems.add("annotation-without-image", len(orphans), orphans)
    return _table(layout, sidecars)


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
    image, found = layout.images.names[0], layout.sidecars.names
    holds = f"which holds {len(found)} others, such as {found[0]}" if found else "which holds no such files"
    return (
        f"none of the {len(layout.images.names)} images below {layout.images.root} has an annotation file of the same "
        f"stem below {layout.sidecars.root}, {holds}: expected one like {stem(image)} for {image}"
    )
