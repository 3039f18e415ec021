"""The members of a tar, found by reading its headers alone, so that images can be read by byte range in place.

Format: https://www.gnu.org/software/tar/manual/html_node/Standard.html
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Callable
from dataclasses import dataclass

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
class IndexTars:
    """The stage that lists a tar's members; its items are URIs of tars."""

    def setup(self) -> Callable[[str], tuple[Member, ...]]:
        """Nothing is loaded."""
        return index


def refuse_compressed(uri: str) -> None:
    """Raise a `DatasetError` if `uri` is named like a compressed tar, whose members have no byte range."""
    if uri.lower().endswith(COMPRESSED):
        raise DatasetError(
            f"{uri} is a compressed tar: its members cannot be read by byte range; unpack it to a plain .tar first "
            "(images are compressed already, it grows little), for example with gunzip, unxz or unzstd"
        )


def index(uri: str) -> tuple[Member, ...]:
    """List the regular files of the tar at `uri`, in its order; a hard link stands for the member it links to.

    Raises:
        DatasetError: it is compressed, damaged or not a tar.
    """
    size = storage.size(uri)
    _check_magic(uri, size)
    members: dict[str, Member] = {}
    try:
        with tarfile.open(fileobj=_RangeFile(uri, size), mode="r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # or a million headers stay in memory
                member = _member(uri, entry, members)
                if member is not None:
                    members[member.name] = member
    except (tarfile.TarError, EOFError) as error:
        raise DatasetError(
            f"{uri} is not a whole tar ({error}, after {len(members)} files): see that it was copied to its end"
        ) from None
    return tuple(members.values())


def _member(uri: str, entry: tarfile.TarInfo, known: dict[str, Member]) -> Member | None:
    name = posixpath.normpath(entry.name)
    if entry.islnk():
        target = known.get(posixpath.normpath(entry.linkname))
        return Member(name, uri, target.offset, target.length) if target else None
    if not entry.isreg() or entry.issparse():
        return None
    return Member(name, uri, entry.offset_data, entry.size)


def _check_magic(uri: str, size: int) -> None:
    if size == 0:
        raise DatasetError(f"{uri} is empty: expected a tar")
    head = storage.read_range(uri, 0, min(size, 8))
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            raise DatasetError(
                f"{uri} is compressed ({kind}): its members have no byte range; make it a plain .tar first"
            )


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
