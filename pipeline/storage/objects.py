"""Object storage and local files behind one set of verbs: atomic publish, exclusive create, many reads at once.

Places are URIs: an absolute local path, or `s3://`, `gs://`, `memory://`, ... through fsspec. Credentials come from the
environment of each library, never from a URI, so that no table, log or message can show one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem

from shardlens.pipeline.errors import BucketNotFoundError, LocationNotFoundError, StorageError
from shardlens.pipeline.storage.faults import Backoff, codes, explain, is_transient
from shardlens.pipeline.storage.uris import is_local

T = TypeVar("T")

BACKOFF = Backoff()


@dataclass(frozen=True, slots=True)
class Entry:
    """An object below a prefix."""

    uri: str
    name: str
    """Its path relative to the prefix."""
    size: int


def filesystem(uri: str) -> tuple[Any, str]:
    """Return the fsspec filesystem of `uri` and the path it knows the place by; retries are ours alone."""
    if is_local(uri):
        return fsspec.filesystem("file"), uri
    scheme = uri.partition("://")[0]
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme in {"s3", "s3a"}:
        options["config_kwargs"] = {
            "retries": {"total_max_attempts": 1},
            "connect_timeout": 10,
            "read_timeout": 60,
            "max_pool_connections": 64,
        }
        options["max_concurrency"] = 1  # one GET an object: no HEAD before it to learn its size
    fs = fsspec.filesystem(scheme, **options)
    if hasattr(fs, "retries"):
        fs.retries = 1
    return fs, fs._strip_protocol(uri)


def read(uri: str) -> bytes:
    """Read a whole object."""
    fs, path = filesystem(uri)
    return bytes(_retried(uri, lambda: fs.cat_file(path)))


def read_range(uri: str, offset: int, length: int) -> bytes:
    """Read `length` bytes from `offset`, fewer where the object ends."""
    if is_local(uri):  # a query reads thousands, one after the other: half of the time would be fsspec's
        return _retried(uri, lambda: _read_file(uri, offset, length))
    fs, path = filesystem(uri)
    return bytes(_retried(uri, lambda: fs.cat_file(path, start=offset, end=offset + length)))


def _read_file(path: str, offset: int, length: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def read_many(ranges: Sequence[tuple[str, int | None, int | None]]) -> list[bytes | StorageError]:
    """Read many (uri, offset, length) at once, None = the whole object; a place that fails costs no neighbor.

    Returns:
        Bytes or the error, in the order of `ranges`.
    """
    results: list[bytes | StorageError] = [b""] * len(ranges)
    waiting = list(range(len(ranges)))
    for attempt in range(BACKOFF.attempts):
        last = attempt == BACKOFF.attempts - 1
        again = []
        for index, found in zip(waiting, _read_once([ranges[i] for i in waiting]), strict=True):
            if isinstance(found, Exception):
                results[index] = explain(ranges[index][0], found, attempt + 1)
                if is_transient(found) and not last:
                    again.append(index)
            else:
                results[index] = bytes(found)
        if not again:
            break
        waiting = again
        time.sleep(BACKOFF.wait(attempt))
    return results


def _read_once(ranges: Sequence[tuple[str, int | None, int | None]]) -> list[bytes | Exception]:
    """Try each range once: together where the filesystem is asynchronous, by threads elsewhere."""
    if not ranges:
        return []
    fs, _ = filesystem(ranges[0][0])
    one_store = len({uri.partition("://")[0] if "://" in uri else "" for uri, _, _ in ranges}) == 1
    if isinstance(fs, AsyncFileSystem) and one_store:
        paths = [fs._strip_protocol(uri) for uri, _, _ in ranges]
        starts = [offset for _, offset, _ in ranges]
        ends = [None if offset is None or length is None else offset + length for _, offset, length in ranges]
        found: list[bytes | Exception] = fs.cat_ranges(paths, starts, ends, on_error="return", batch_size=64)
        return found
    with ThreadPoolExecutor(min(8, len(ranges))) as threads:
        return list(threads.map(_try_range, ranges))


def _try_range(place: tuple[str, int | None, int | None]) -> bytes | Exception:
    uri, offset, length = place
    fs, path = filesystem(uri)
    try:
        if offset is None or length is None:
            return bytes(fs.cat_file(path))
        return bytes(fs.cat_file(path, start=offset, end=offset + length))
    except Exception as error:  # noqa: BLE001 - errors are values here; the caller sorts them by kind
        return error


def publish(uri: str, data: bytes) -> None:
    """Write an object so that readers see the old one or the whole new one, never a part."""
    if is_local(uri):
        _retried(uri, lambda: _publish_file(uri, lambda file: file.write(data), os.replace))
        return
    fs, path = filesystem(uri)
    _retried(uri, lambda: fs.pipe_file(path, data))


def publish_file(uri: str, source: str) -> None:
    """Publish the file `source` of this machine; it need not fit in memory."""
    if is_local(uri):
        _retried(uri, lambda: _publish_file(uri, lambda file: _copy(source, file), os.replace))
        return
    fs, path = filesystem(uri)
    _retried(uri, lambda: fs.put_file(source, path))


def _copy(source: str, target: BinaryIO) -> None:
    with open(source, "rb") as file:
        shutil.copyfileobj(file, target, 1 << 20)


def create(uri: str, data: bytes) -> bool:
    """Write an object whole unless one is there already; of many writers at once, one wins.

    Returns:
        Whether this call wrote it. After a lost answer that was tried again, False can mean that it did: compare contents.
    """
    if is_local(uri):
        try:
            _retried(uri, lambda: _publish_file(uri, lambda file: file.write(data), os.link))
        except FileExistsError:
            return False
        return True
    fs, path = filesystem(uri)

    def put() -> None:
        try:
            fs.pipe_file(path, data, mode="create")
        except OSError as error:
            if "PreconditionFailed" in codes(error):  # some servers do not say which condition, as s3fs wants it
                raise FileExistsError(path) from None
            raise

    try:
        _retried(uri, put)
    except FileExistsError:
        return False
    return True


def _publish_file(path: str, fill: Callable[[BinaryIO], object], place: Callable[[str, str], None]) -> None:
    """Write beside `path`, flush to the disk, then `place` the file under its name."""
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".publishing-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        place(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def delete(uri: str) -> None:
    """Remove an object; one that is not there is fine."""
    fs, path = filesystem(uri)

    def remove() -> None:
        try:
            fs.rm_file(path)
        except FileNotFoundError:
            return

    _retried(uri, remove)


def delete_folder(uri: str) -> None:
    """Remove everything below a folder or prefix, one by one in no certain order; one that is not there is fine."""
    fs, path = filesystem(uri)

    def remove() -> None:
        try:
            fs.rm(path, recursive=True)
        except FileNotFoundError:
            return

    _retried(uri, remove)


def size(uri: str) -> int:
    """Bytes of an object."""
    fs, path = filesystem(uri)
    return int(_retried(uri, lambda: fs.info(path))["size"])


def exists(uri: str) -> bool:
    """Whether an object (or a folder, or something below the prefix) is there."""
    fs, path = filesystem(uri)
    try:
        _retried(uri, lambda: fs.info(path))
    except LocationNotFoundError:
        return False
    return True


def children(uri: str) -> list[str]:
    """Names directly below a folder or prefix, sorted; folders end in a slash. None are below what is not there.

    Raises:
        BucketNotFoundError: the bucket itself is not there.
    """
    fs, path = filesystem(uri)
    try:
        found = _retried(uri, lambda: fs.ls(path, detail=True))
    except BucketNotFoundError:
        raise
    except LocationNotFoundError:
        return []
    marker = f"{path.rstrip('/')}/"  # an empty object that stores and their consoles keep for an empty folder
    below = [entry for entry in found if entry["name"] != marker]
    entries = [(PurePosixPath(str(entry["name"])).name, entry["type"] == "directory") for entry in below]
    visible = [(name, folder) for name, folder in entries if not name.startswith(".publishing-")]
    return sorted(f"{name}/" if folder else name for name, folder in visible)


def walk(uri: str) -> list[Entry]:
    """Every object below a folder or prefix, sorted by its relative name; none are below what is not there."""
    fs, path = filesystem(uri)
    try:
        found: dict[str, dict[str, Any]] = _retried(uri, lambda: fs.find(path, detail=True))
    except LocationNotFoundError:
        return []
    prefix = path.rstrip("/") + "/"
    names = ((name[len(prefix) :], int(info["size"])) for name, info in found.items() if name.startswith(prefix))
    entries = [Entry(f"{uri.rstrip('/')}/{name}", name, length) for name, length in names if name]
    return sorted(
        (e for e in entries if not PurePosixPath(e.name).name.startswith(".publishing-")), key=lambda e: e.name
    )


def _retried(uri: str, call: Callable[[], T]) -> T:
    """Call until it works, waiting longer each time while the store's failure is one that passes."""
    for attempt in range(BACKOFF.attempts):
        try:
            return call()
        except FileExistsError:
            raise
        except Exception as error:  # noqa: BLE001 - each library has its own; all are explained or tried again
            if not is_transient(error) or attempt == BACKOFF.attempts - 1:
                raise explain(uri, error, attempt + 1) from None
        time.sleep(BACKOFF.wait(attempt))
    raise AssertionError("a back-off has at least one attempt")


def forget_connections() -> None:
    """Open stores anew at their next use, for example after the environment's credentials changed."""
    fsspec.filesystem("file").clear_instance_cache()
    for scheme in ("s3", "gs"):
        if scheme in fsspec.registry:
            fsspec.get_filesystem_class(scheme).clear_instance_cache()
