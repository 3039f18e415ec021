"""A read-only file system of the files that SQL may see: what is not listed does not exist, nothing can be written."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fsspec.spec import AbstractFileSystem

from shardlens.pipeline import storage
from shardlens.pipeline.errors import LocationNotFoundError, QueryError, ShardlensError, StorageError
from shardlens.pipeline.storage import checksums
from shardlens.pipeline.warehouse import tables

PROTOCOL = "warehouse"


@dataclass(frozen=True, slots=True)
class File:
    """Where the bytes of a made-up path are."""

    uri: str = ""
    size: int | None = None
    """None for a file that may be written anew at any time, which is read completely, once."""
    data: bytes | None = None
    """Its bytes, if it lies nowhere else."""
    blocks: str = ""
    """Checksums of its blocks (`storage.checksums`), by which each range that is read is checked."""
    sha256: str = ""
    """Of a file without block checksums: it is read and checked completely before its first range is given out."""


class CommittedFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec is untyped
    """The listed files and no others, for reading only; DuckDB calls it from all of its threads."""

    protocol = PROTOCOL
    cachable = False

    def __init__(self, files: Mapping[str, File]) -> None:
        super().__init__()
        self.files = files
        self.opened: set[str] = set()
        """Paths that have been opened."""
        self.failures: list[ShardlensError] = []
        """What went wrong, in more detail than DuckDB can give: it only sees that a Python function raised."""
        self._whole: dict[str, bytes] = {}
        self._checked: set[str] = set()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix(f"{PROTOCOL}://")

    def glob(self, path: str, **_: Any) -> list[str]:
        """Paths of a view (`predictions/**`), in the order listed, or the one path if it is listed."""
        path = self._strip_protocol(path)
        if path.endswith("/**"):
            return [name for name in self.files if name.startswith(path[:-2])]
        return [path] if path in self.files else []

    def exists(self, path: str, **_: Any) -> bool:
        """Whether the path is listed."""
        return self._strip_protocol(path) in self.files

    def isfile(self, path: str) -> bool:
        """Whether the path is listed."""
        return self.exists(path)

    def isdir(self, path: str) -> bool:
        """Never: there are no folders, so none can be made, listed or removed."""
        return False

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size and kind of a listed file."""
        found = self._find(path)
        data = self._data(path)
        return {"name": path, "size": found.size if data is None else len(data), "type": "file"}

    def modified(self, path: str) -> datetime:
        """Always the same: parts never change, and what may is read once."""
        return datetime(2000, 1, 1, tzinfo=UTC)

    def open(self, path: str, mode: str = "rb", **_: Any) -> OpenFile:
        """Open a listed file.

        Raises:
            QueryError: for writing.
        """
        if mode != "rb":
            raise self._failed(QueryError(f"{path}: a query cannot write files: use --output for its result"))
        found = self._find(path)
        self.opened.add(self._strip_protocol(path))
        return OpenFile(self, found, self._data(path))

    def read(self, file: File, offset: int, length: int) -> bytes:
        """Read a range, by way of the storage's retries.

        Raises:
            StorageError: the store fails, or the file is shorter than its listing says.
        """
        if file.blocks:
            first, end = checksums.around(offset, length, file.size or 0)
            data = self._range(file, first, end - first)
            if not checksums.intact(data, first, file.blocks):
                raise self._damaged(file, f"a checksum of bytes {first} to {end} is wrong")
            return data[offset - first : offset - first + length]
        if file.sha256 and file.uri not in self._checked:
            if hashlib.sha256(self._range(file, 0, file.size or 0)).hexdigest() != file.sha256:
                raise self._damaged(file, "its SHA-256 is not the one in commit.json")
            self._checked.add(file.uri)
        return self._range(file, offset, length)

    def _range(self, file: File, offset: int, length: int) -> bytes:
        try:
            data = storage.read_range(file.uri, offset, length)
        except LocationNotFoundError:
            gone = f"{file.uri} is gone: its run was deleted or predicted again while the query ran; run the query once more"
            raise self._failed(LocationNotFoundError(gone)) from None
        except StorageError as error:
            raise self._failed(error) from None
        if len(data) != length:
            wrong = f"{len(data)} bytes at {offset} where {length} were expected, of {file.size} in all"
            raise self._damaged(file, wrong)
        return data

    def _damaged(self, file: File, wrong: str) -> ShardlensError:
        return self._failed(StorageError(f"{file.uri} is damaged ({wrong}): restore it, or predict again"))

    def _find(self, path: str) -> File:
        name = self._strip_protocol(path)
        if name not in self.files:
            raise FileNotFoundError(f"{name} is not a file of this warehouse")
        return self.files[name]

    def _data(self, path: str) -> bytes | None:
        """The bytes of a file that is kept completely; None for those read in ranges."""
        name = self._strip_protocol(path)
        file = self.files[name]
        if file.data is not None or file.size is not None:
            return file.data
        if name not in self._whole:
            try:
                self._whole.setdefault(name, tables.checked(file.uri, storage.read(file.uri)))
            except StorageError as error:
                raise self._failed(error) from None
        return self._whole[name]

    def _failed(self, error: ShardlensError) -> ShardlensError:
        self.failures.append(error)
        return error


class OpenFile:
    """A file open for reading. DuckDB reads one from many threads, seek by seek, so each thread has its own place."""

    mode = "rb"

    def __init__(self, files: CommittedFiles, file: File, data: bytes | None) -> None:
        self.files = files
        self.file = file
        self.data = data
        self.size = len(data) if data is not None else file.size or 0
        self.place = threading.local()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to `offset`."""
        self.place.at = offset + (0, self.tell(), self.size)[whence]
        return self.tell()

    def tell(self) -> int:
        """Where this thread reads next."""
        return int(getattr(self.place, "at", 0))

    def read(self, length: int = -1) -> bytes:
        """Read up to `length` bytes; -1 = all that is left."""
        start = self.tell()
        left = max(0, self.size - start)
        length = left if length < 0 else min(length, left)
        self.place.at = start + length
        if self.data is not None:
            return self.data[start : start + length]
        return self.files.read(self.file, start, length) if length else b""

    def close(self) -> None:
        """Nothing is held."""
