"""Where images lie: the files below a folder or prefix, or the members of tars, by their names."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from shardlens.pipeline import storage
from shardlens.pipeline.annotations import tars
from shardlens.pipeline.errors import DatasetError, ExecutionError
from shardlens.pipeline.executors.base import Executor, Lost

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".jp2", ".avif",
)  # fmt: skip

Place = tuple[str, int | None, int | None]
"""URI, offset, length; None = the whole object."""


@dataclass(frozen=True)
class Listing:
    """Files by name, sorted; the names are relative to `root`."""

    root: str
    names: tuple[str, ...]
    places: tuple[Place, ...]
    others: tuple[str, ...] = ()
    """A few names of files that were not asked for."""

    @cached_property
    def by_name(self) -> dict[str, Place]:
        """Place of each name."""
        return dict(zip(self.names, self.places, strict=True))

    @cached_property
    def top(self) -> str:
        """The folder that all names share, with its slash; tars are often made of one folder."""
        folders = {name.partition("/")[0] if "/" in name else "" for name in self.names}
        return folders.pop() + "/" if len(folders) == 1 and "" not in folders else ""

    def find(self, name: str) -> Place | None:
        """Place of `name`, which may leave out the folder that all names share."""
        return self.by_name.get(name) or (self.by_name.get(self.top + name) if self.top else None)


def is_tar(uri: str) -> bool:
    """Whether `uri` is named like a tar; one named like a compressed tar raises a `DatasetError`."""
    tars.refuse_compressed(uri)
    return uri.lower().endswith(".tar")


def is_hidden(name: str) -> bool:
    """Whether a component of the name begins with a dot: what desktops and editors leave behind, never data."""
    return any(part.startswith(".") and part not in {".", ".."} for part in name.split("/"))


def listing(uri: str, suffixes: Sequence[str], executor: Executor) -> Listing:
    """List the files below `uri` whose names end in one of `suffixes`: files or members of a tar.

    Where no such file lies below a folder, the tars in it are opened.

    Raises:
        DatasetError: a tar is compressed or damaged.
        LocationNotFoundError: nothing is there.
    """
    if is_tar(uri):
        return _chosen(uri, _members([uri], executor), suffixes)
    entries = [(entry.name, (entry.uri, None, None)) for entry in storage.walk(uri)]
    found = _chosen(uri, entries, suffixes)
    if found.names:
        return found
    inside = [place[0] for name, place in entries if not is_hidden(name) and is_tar(name)]
    if not inside and not entries:
        storage.size(uri)  # raises what is wrong with the place itself, if anything is
    return _chosen(uri, _members(inside, executor), suffixes) if inside else found


def _chosen(root: str, entries: Iterable[tuple[str, Place]], suffixes: Sequence[str]) -> Listing:
    chosen: list[tuple[str, Place]] = []
    others: list[str] = []
    for name, place in entries:
        if is_hidden(name):
            continue
        if name.lower().endswith(tuple(suffixes)):
            chosen.append((name, place))
        elif len(others) < 3:
            others.append(name)
    chosen.sort()
    return Listing(root, tuple(name for name, _ in chosen), tuple(place for _, place in chosen), tuple(others))


def _members(uris: Sequence[str], executor: Executor) -> list[tuple[str, Place]]:
    """Members of the tars `uris`, in the order of the tars."""
    by_tar: dict[str, tuple[tars.Member, ...]] = {}
    for result in executor.map(tars.IndexTars(), uris):
        if isinstance(result, Lost):
            raise ExecutionError(
                f"{result.item}: its members could not be listed in {result.attempts} attempts: {result.reason}"
            )
        by_tar[result.item] = result.value
    return [(m.name, (m.uri, m.offset, m.length)) for uri in uris for m in by_tar[uri]]


def below(root: str, file_name: str) -> str | None:
    """URI of `file_name` below `root`; None if it leads elsewhere (absolute, `..`, another scheme) or nowhere."""
    parts = file_name.split("/")
    if not file_name or file_name.startswith("/") or ".." in parts or "://" in file_name or "\0" in file_name:
        return None
    name = posixpath.normpath(file_name)
    return None if name == "." else f"{root.rstrip('/')}/{name}"


def images(uri: str, executor: Executor) -> Listing:
    """List the images below `uri`.

    Raises:
        DatasetError: there are none.
    """
    found = listing(uri, IMAGE_SUFFIXES, executor)
    if not found.names:
        beside = f"; it holds {', '.join(found.others)}, ..." if found.others else ""
        raise DatasetError(
            f"no images below {uri}: expected files ending in {', '.join(IMAGE_SUFFIXES)}, or tars of them{beside}"
        )
    return found
