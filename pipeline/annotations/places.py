"""Files and where they lie: by their names below a folder or prefix, or as members of tars."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from shardlens.pipeline.annotations import tars

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".mpo",
)  # fmt: skip

Place = tuple[str, int | None, int | None]
"""URI, offset, length; None = the complete object."""


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
        """Place of each name; the first place of a name that occurs in several tars."""
        return dict(zip(reversed(self.names), reversed(self.places), strict=True))

    @cached_property
    def repeated(self) -> dict[str, list[Place]]:
        """The places of each name that occurs in several tars."""
        again = {name for name, count in Counter(self.names).items() if count > 1}
        places: dict[str, list[Place]] = {}
        for name, place in zip(self.names, self.places, strict=True):
            if name in again:
                places.setdefault(name, []).append(place)
        return places

    @cached_property
    def top(self) -> str:
        """The folder that all names share, with its slash; tars are often made of one folder."""
        folders = {name.partition("/")[0] if "/" in name else "" for name in self.names}
        return folders.pop() + "/" if len(folders) == 1 and "" not in folders else ""

    @cached_property
    def _by_tar(self) -> dict[str, Place]:
        """Place of each member by the tar's name without suffix and its own."""
        pairs = zip(self.names, self.places, strict=True)
        return {f"{posixpath.basename(p[0])[: -len('.tar')]}/{name}": p for name, p in pairs if p[1] is not None}

    def find(self, name: str) -> Place | None:
        """Place of `name`, which may leave out the folder that all names share, or begin with the name of its tar."""
        top = self.by_name.get(self.top + name) if self.top else None
        return self.by_name.get(name) or top or self._by_tar.get(name)

    def only(self, wanted: Callable[[str], bool]) -> Listing:
        """The files whose names are `wanted`."""
        chosen = [(name, place) for name, place in zip(self.names, self.places, strict=True) if wanted(name)]
        others = [name for name in self.names if not wanted(name)][:3] if len(chosen) < len(self.names) else []
        return Listing(self.root, tuple(n for n, _ in chosen), tuple(p for _, p in chosen), tuple(others))


def listing_of(root: str, entries: Iterable[tuple[str, Place]]) -> Listing:
    """Make a listing of names with their places, in any order."""
    rows = sorted(entries, key=lambda row: (row[0], row[1][0], row[1][1] or 0))
    return Listing(root, tuple(name for name, _ in rows), tuple(place for _, place in rows))


def is_tar(uri: str) -> bool:
    """Whether `uri` is named like a tar; one named like a compressed tar raises a `DatasetError`."""
    tars.refuse_compressed(uri)
    return uri.lower().endswith(".tar")


def is_hidden(name: str) -> bool:
    """Whether a component of the name begins with a dot: what desktops and editors leave behind, never data."""
    return any(part.startswith(".") and part not in {".", ".."} for part in name.split("/"))


def printable(name: str) -> str:
    """The name itself where it is text; bytes that are not UTF-8 become `\\xE9` and the like."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def below(root: str, file_name: str) -> str | None:
    """URI of `file_name` below `root`; None if it leads elsewhere (absolute, `..`, another scheme) or nowhere."""
    parts = file_name.split("/")
    if not file_name or file_name.startswith("/") or ".." in parts or "://" in file_name or "\0" in file_name:
        return None
    name = posixpath.normpath(file_name)
    return None if name == "." else f"{root.rstrip('/')}/{name}"
