"""The members of a tar, listed by reading its headers alone, so that images can be read by byte range in place.

Format: https://www.gnu.org/software/tar/manual/html_node/Standard.html
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field

from shardlens.pipeline import storage
from shardlens.pipeline.errors import DatasetError

BLOCK = 1 << 20
"""Bytes of one read: members smaller than this share it, the bodies of larger ones are skipped."""
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.zstd")
MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstandard"}


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar."""

    name: str
    uri: str
    """The tar's."""
    offset: int
    length: int


@dataclass(frozen=True)
class Contents:
    """What a tar holds."""

    members: tuple[Member, ...]
    """Its regular files, in its order."""
    damage: str | None = None
    """Why there may be more; None if all could be listed."""
    sparse: tuple[str, ...] = ()
    """Names of sparse files, whose bytes do not lie in one piece; they are left out."""


@dataclass(frozen=True)
class IndexTars:
    """The stage that lists a tar's members; its items are URIs of tars."""

    def setup(self) -> Callable[[str], Contents]:
        """Nothing is loaded."""
        return contents


def refuse_compressed(uri: str) -> None:
    """Raise a `DatasetError` if `uri` is named like a compressed tar, whose members have no byte range."""
    if uri.lower().endswith(COMPRESSED):
        raise DatasetError(
            f"{uri} is a compressed tar: its members cannot be read by byte range; unpack it to a plain .tar first "
            "(images are compressed already, it grows little), for example with gunzip, unxz or unzstd"
        )


def contents(uri: str) -> Contents:
    """List the regular files of the tar at `uri`, in its order; a link stands for the member it links to.

    Of a damaged tar those before the damage are listed.
    """
    size = storage.size(uri)
    damage = _foreign(uri, size)
    if damage:
        return Contents((), damage)
    members, reason = _Members(uri), None
    try:
        with tarfile.open(fileobj=_RangeFile(uri, size), mode="r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or a million headers stay in memory
                if entry.isreg() and not entry.issparse() and entry.offset_data + entry.size > size:
                    reason = f"{entry.name} is cut off"
                else:
                    members.take(entry)
            if 0 < size - tar.offset < tarfile.BLOCKSIZE:  # tarfile takes it for the end
                reason = "the header of a file is cut off"
    except (tarfile.TarError, EOFError) as error:
        reason = reason or str(error)
    if reason:
        reason = (
            f"{uri} is incomplete or no tar ({reason}, after {len(members.members)} files): copy it again to its end"
        )
    return Contents(members.listed(), reason, tuple(members.sparse))


@dataclass
class _Members:
    """Gathers the members of a tar; symbolic links find theirs when all are known, for they may come first."""

    uri: str
    members: dict[str, Member] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    sparse: list[str] = field(default_factory=list)

    def take(self, entry: tarfile.TarInfo) -> None:
        """Take the next entry; what is no file and no link to one is left out."""
        name = posixpath.normpath(entry.name)
        if entry.issym():
            self.links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), entry.linkname))
        elif entry.islnk():
            target = self.members.get(posixpath.normpath(entry.linkname))
            if target:
                self.members[name] = Member(name, self.uri, target.offset, target.length)
        elif entry.issparse():
            self.sparse.append(name)
        elif entry.isreg():
            self.members[name] = Member(name, self.uri, entry.offset_data, entry.size)

    def listed(self) -> tuple[Member, ...]:
        """All members, those that symbolic links name last; a link out of the tar or to a link is left out."""
        linked = [(name, self.members[to]) for name, to in self.links.items() if to in self.members]
        links = [Member(name, self.uri, to.offset, to.length) for name, to in linked if name not in self.members]
        return (*self.members.values(), *links)


def _foreign(uri: str, size: int) -> str | None:
    """Why the object is no plain tar, by its first bytes."""
    if size == 0:
        return f"{uri} is empty: expected a tar"
    head = storage.read_range(uri, 0, min(size, 8))
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return f"{uri} is compressed ({kind}): its members have no byte range; make it a plain .tar first"
    return None


class _RangeFile(io.RawIOBase):
    """An object as a seekable file; one block of it is in memory. Reads are retried as all storage is."""

    def __init__(self, uri: str, size: int) -> None:
        super().__init__()
        self._uri, self._size, self._at = uri, size, 0
        self._start, self._block = 0, b""

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes (-1 = to the end), fewer only at the end."""
        wanted = max(0, self._size - self._at) if size < 0 else min(size, max(0, self._size - self._at))
        parts = []
        while wanted > 0:
            part = self._cached(wanted)
            parts.append(part)
            self._at += len(part)
            wanted -= len(part)
        return b"".join(parts)

    def _cached(self, wanted: int) -> bytes:
        """Bytes from the place on, at most `wanted`, at least one."""
        begin = self._at - self._start
        if not 0 <= begin < len(self._block):
            self._start, begin = self._at, 0
            self._block = storage.read_range(self._uri, self._at, min(BLOCK, self._size - self._at))
            if not self._block:
                raise EOFError(f"no bytes at {self._at} of {self._size}")
        return self._block[begin : begin + wanted]
