"""What lies at a place, listed once for everyone who asks: files below a folder or prefix, or the members of tars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from shardlens.pipeline import storage
from shardlens.pipeline.annotations import first_bytes, tars
from shardlens.pipeline.annotations.links import LocalWalk
from shardlens.pipeline.annotations.marks import Marks
from shardlens.pipeline.annotations.places import (
    IMAGE_SUFFIXES,
    Listing,
    Place,
    is_hidden,
    is_tar,
    listing_of,
    printable,
)
from shardlens.pipeline.errors import DatasetError, ExecutionError
from shardlens.pipeline.executors.base import Executor, Lost

OTHER_SUFFIXES = (
    ".txt", ".xml", ".json", ".jsonl", ".csv", ".tsv", ".md", ".rst", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".names",
    ".data", ".html", ".htm", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".py", ".ipynb", ".sh", ".m", ".mat", ".npy",
    ".npz", ".pkl", ".pt", ".pth", ".safetensors", ".onnx", ".h5", ".hdf5", ".parquet", ".db", ".log", ".lock", ".cls",
    ".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".tar", ".mp4", ".avi", ".mov", ".mkv", ".mp3", ".wav",
)  # fmt: skip
"""Suffixes of files that are no images; the first bytes of files with neither kind of suffix are looked at."""
SAMPLE = 16
"""Files of an unknown suffix that are looked at first; if none is an image, the others of that suffix are not read."""
TARS_OUTWEIGH = 2
"""Tars that hold so many times the bytes of the images next to them are the dataset; the images are left out then."""


@dataclass
class Catalog:
    """Lists places, each of them once, and keeps the problems of that."""

    follow_links: bool = False
    """Follow symbolic links that lead out of the folder that was named."""
    problems: list[tuple[str, str]] = field(default_factory=list)
    """(kind, in words) of all places listed."""
    hidden: list[str] = field(default_factory=list)
    """Names of images that are hidden, or in a hidden folder, and so left out; not those that macOS adds to each file."""
    used: set[tuple[str, int | None]] = field(default_factory=set)
    """URI and offset of the files that were read and are neither an image nor an image's own annotation file."""
    marks: Marks = field(default_factory=Marks)
    """Bytes and etags of all that was listed."""
    _listed: dict[str, Listing] = field(default_factory=dict)
    _kinds: dict[Place, str | None] = field(default_factory=dict)

    def files(self, uri: str, executor: Executor) -> Listing:
        """List everything at `uri`, hidden files aside.

        Tars below a folder are opened unless it holds more in images of its own.

        Raises:
            DatasetError: `uri` is a tar that is compressed, or damaged from the start.
            LocationNotFoundError: nothing is there.
        """
        if uri not in self._listed:
            entries = self._single_tar(uri, executor) if is_tar(uri) else self._folder(uri, executor)
            self._listed[uri] = listing_of(uri, self._named(entries))
        return self._listed[uri]

    def listed(self, uri: str) -> Listing | None:
        """What was listed at `uri`, if that was asked for before."""
        return self._listed.get(uri)

    def listing(self, uri: str, suffixes: Sequence[str], executor: Executor) -> Listing:
        """List the files at `uri` whose names end in one of `suffixes`."""
        return self.files(uri, executor).only(lambda name: name.lower().endswith(tuple(suffixes)))

    def images(self, uri: str, executor: Executor) -> Listing:
        """List the images at `uri`: by their suffix, or without a known one by their first bytes.

        Raises:
            DatasetError: there are none.
        """
        files = self.files(uri, executor)
        kinds = self.kinds(files)
        images = files.only(
            lambda name: name.lower().endswith(IMAGE_SUFFIXES) or kinds.get(name) in first_bytes.DECODED
        )
        if not images.names:
            held = f"; it holds {', '.join(images.others)}, ..." if images.others else ""
            raise DatasetError(
                f"no images below {uri}: expected files ending in {', '.join(IMAGE_SUFFIXES)}, files that begin as such "
                f"images do, or tars of them{held}"
            )
        return images

    def kinds(self, files: Listing) -> dict[str, str | None]:
        """What kind of image each file of an unknown suffix is, by name; None = it is no image."""
        by_suffix: dict[str, list[int]] = {}
        for row, name in enumerate(files.names):
            if not name.lower().endswith((*IMAGE_SUFFIXES, *OTHER_SUFFIXES)):
                by_suffix.setdefault(PurePosixPath(name).suffix.lower(), []).append(row)
        for suffix, rows in by_suffix.items():
            first = rows if suffix == "" else rows[:SAMPLE]
            self._look(files, first)
            if any(self._kinds[files.places[row]] for row in first):
                self._look(files, rows[len(first) :])
        return {name: self._kinds[p] for name, p in zip(files.names, files.places, strict=True) if p in self._kinds}

    def _look(self, files: Listing, rows: Sequence[int]) -> None:
        """Read the first bytes of some files; of one that cannot be read nothing is known."""
        wanted = [files.places[row] for row in rows if files.places[row] not in self._kinds]
        heads = [(uri, at or 0, min(first_bytes.HEAD, size or first_bytes.HEAD)) for uri, at, size in wanted]
        for place, head in zip(wanted, storage.read_many(heads), strict=True):
            self._kinds[place] = first_bytes.image_kind(head) if isinstance(head, bytes) else None

    def _folder(self, uri: str, executor: Executor) -> list[tuple[str, Place]]:
        sizes: dict[str, int] = {}
        for name, size, etag in self._walk(uri):
            sizes[name] = size
            self.marks.add(f"{uri.rstrip('/')}/{name}", size, etag)
        if not sizes:
            one = storage.stat(uri)  # raises what is wrong with the place itself, if anything is
            is_image = uri.lower().endswith(IMAGE_SUFFIXES)
            self.marks.add(uri, one.size, one.etag)
            return [(PurePosixPath(uri).name, (uri, None, None))] if is_image else []
        entries: list[tuple[str, Place]] = [(name, (f"{uri.rstrip('/')}/{name}", None, None)) for name in sizes]
        images = [name for name in sizes if name.lower().endswith(IMAGE_SUFFIXES)]
        inside = [name for name in sizes if name.lower().endswith(".tar")]
        packed = [name for name in sizes if name.lower().endswith(tars.COMPRESSED)]
        if images and sum(map(sizes.__getitem__, inside)) < TARS_OUTWEIGH * sum(map(sizes.__getitem__, images)):
            return entries
        if packed and not inside and not images:
            tars.refuse_compressed(f"{uri.rstrip('/')}/{packed[0]}")
        self.problems += [("compressed-tar", name) for name in packed]
        if not inside:
            return entries
        self.problems += [("loose-image", name) for name in images]
        loose = [entry for entry in entries if entry[0] not in {*images, *inside}]
        return loose + self._members([f"{uri.rstrip('/')}/{name}" for name in sorted(inside)], executor)

    def _single_tar(self, uri: str, executor: Executor) -> list[tuple[str, Place]]:
        one = storage.stat(
            uri
        )  # before its members are listed: of a tar that is replaced meanwhile it must be the old one's
        self.marks.add(uri, one.size, one.etag)
        return self._members([uri], executor)

    def _walk(self, uri: str) -> Iterator[tuple[str, int, str | None]]:
        """Name, bytes and etag of every visible object below `uri`."""
        if not storage.is_local(uri):
            yield from ((e.name, e.size, e.etag) for e in storage.walk(uri) if not self._is_hidden(e.name))
            return
        walk = LocalWalk(uri, self.follow_links)
        for name, size, etag in walk.files():
            if self._is_hidden(name):
                continue
            if printable(name) == name:
                yield name, size, etag
            else:
                self.problems.append(("undecodable-name", f"{printable(name)}: left out"))
        self.problems += [("link-out", printable(name)) for name in walk.refused if not is_hidden(name)]
        self.problems += [("locked-folder", printable(name)) for name in walk.locked]

    def _is_hidden(self, name: str) -> bool:
        """Whether a name is hidden; an image of such a name is noted."""
        hidden = is_hidden(name)
        if hidden and name.lower().endswith(IMAGE_SUFFIXES) and not PurePosixPath(name).name.startswith("._"):
            self.hidden.append(printable(name))
        return hidden

    def _named(self, entries: Iterable[tuple[str, Place]]) -> Iterator[tuple[str, Place]]:
        for name, place in entries:
            if self._is_hidden(name):
                continue
            if printable(name) != name:
                self.problems.append(("undecodable-name", f"{printable(name)}: taken in under this name"))
            yield printable(name), place

    def _members(self, uris: Sequence[str], executor: Executor) -> list[tuple[str, Place]]:
        """Members of the tars `uris`, in the order of the tars; of a damaged one those that are complete.

        Raises:
            DatasetError: there is no complete member, and a tar is damaged.
        """
        contents: dict[str, tars.Contents] = {}
        for result in executor.map(tars.IndexTars(), uris):
            if isinstance(result, Lost):
                raise ExecutionError(
                    f"{result.item}: its members could not be listed in {result.attempts} attempts: {result.reason}"
                )
            contents[result.item] = result.value
        damage = [contents[uri].damage for uri in uris if contents[uri].damage]
        members: list[tuple[str, Place]] = [
            (m.name, (m.uri, m.offset, m.length)) for uri in uris for m in contents[uri].members
        ]
        if damage and not members:
            raise DatasetError(str(damage[0]))
        self.problems += [("damaged-tar", str(text)) for text in damage]
        self.problems += [("sparse-file", f"{name} in {uri}") for uri in uris for name in contents[uri].sparse]
        return members
