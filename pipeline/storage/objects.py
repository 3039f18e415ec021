"""Object storage and local files behind one set of verbs: atomic publish, exclusive create, many reads at once.

Places are URIs: an absolute local path, or `s3://`, `gs://`, `memory://`, ... through fsspec. Credentials come from the
environment of each library, never from a URI, so that no table, log or message can show one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem

from shardlens.pipeline.errors import StorageError
from shardlens.pipeline.storage import local
from shardlens.pipeline.storage.faults import Backoff, codes, explain, is_transient
from shardlens.pipeline.storage.uris import is_local

T = TypeVar("T")

BACKOFF = Backoff()
LOST_RACE = {"PreconditionFailed", "ConditionalRequestConflict"}
DELETED_AT_ONCE = 16
IN_ONE_REQUEST = 500
"""Objects that a request to S3 removes; S3 takes up to 1,000."""
_MEMORY = threading.Lock()


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
    return bytes(retried(uri, lambda: fs.cat_file(path)))


def read_range(uri: str, offset: int, length: int) -> bytes:
    """Read `length` bytes from `offset`, fewer where the object ends."""
    if is_local(uri):  # a query reads thousands, one after the other: half of the time would be fsspec's
        return retried(uri, lambda: _read_file(uri, offset, length))
    fs, path = filesystem(uri)
    return bytes(retried(uri, lambda: fs.cat_file(path, start=offset, end=offset + length)))


def _read_file(path: str, offset: int, length: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def read_many(ranges: Sequence[tuple[str, int | None, int | None]]) -> list[bytes | StorageError]:
    """Read many (uri, offset, length) at once, None = the whole object; a place that fails does not affect the others.

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
    """Write an object so that readers see the old one or the new one, never a part."""
    if is_local(uri):
        retried(uri, lambda: local.replace(uri, lambda file: file.write(data)))
        return
    fs, path = filesystem(uri)
    retried(uri, lambda: fs.pipe_file(path, data))


def publish_file(uri: str, source: str) -> None:
    """Publish the file `source` of this machine; it need not fit in memory."""
    if is_local(uri):
        retried(uri, lambda: local.replace(uri, local.copy_from(source)))
        return
    fs, path = filesystem(uri)
    retried(uri, lambda: fs.put_file(source, path))


def create(uri: str, data: bytes) -> bool:
    """Write an object unless one is there already; of many writers at once, one wins.

    Returns:
        Whether this call wrote it. After a lost answer that was tried again, False can mean that it did: compare contents.
    """

    def put() -> None:
        if is_local(uri):
            local.create(uri, lambda file: file.write(data))
            return
        fs, path = filesystem(uri)
        try:
            fs.pipe_file(path, data, mode="create")
        except OSError as error:
            if codes(error) & LOST_RACE:  # some servers do not name the condition, as s3fs expects
                raise FileExistsError(path) from None
            raise

    try:
        retried(uri, put)
    except FileExistsError:
        return False
    return True


def swap(uri: str, expected: bytes | None, data: bytes) -> bool:
    """Compare and swap: write an object if it still holds `expected` (None: if it is not there).

    Of many writers at once that expect the same content, one wins: by a lock on disk and in memory, by `If-Match` on S3.
    Stores without a conditional replace (gs://, az://) are compared just before the write.

    Returns:
        Whether it holds `data` now by this call; if not, read it again and decide anew.
    """
    if expected is None:
        return create(uri, data)
    if is_local(uri):
        return retried(uri, lambda: local.swap(uri, expected, data))
    fs, path = filesystem(uri)
    with _MEMORY if uri.startswith("memory://") else nullcontext():
        return retried(uri, lambda: _swap(fs, path, expected, data))


def _swap(fs: Any, path: str, expected: bytes, data: bytes) -> bool:
    """Swap in a store, with `If-Match` where it has tags."""
    try:
        tag = fs.info(path).get("ETag")
        if bytes(fs.cat_file(path)) != expected:  # if it changes after `tag` was taken, If-Match fails
            return False
    except FileNotFoundError:
        return False
    try:
        fs.pipe_file(path, data, **({"IfMatch": tag} if tag else {}))
    except OSError as error:
        if codes(error) & LOST_RACE:
            return False
        raise
    return True


def delete(uri: str) -> None:
    """Remove an object; one that is not there is fine."""
    fs, path = filesystem(uri)

    def remove() -> None:
        try:
            fs.rm_file(path)
        except FileNotFoundError:
            return

    retried(uri, remove)


def delete_many(uris: Sequence[str]) -> None:
    """Remove many objects, several at once and in no certain order; those that are not there are fine."""
    at_once = [uri for uri in uris if uri.startswith(("s3://", "s3a://"))]
    others = [uri for uri in uris if not uri.startswith(("s3://", "s3a://"))]
    for start in range(0, len(at_once), IN_ONE_REQUEST):
        others += _delete_in_one_request(at_once[start : start + IN_ONE_REQUEST])
    if others:
        with ThreadPoolExecutor(min(DELETED_AT_ONCE, len(others))) as threads:
            for _ in threads.map(delete, others):
                pass


def _delete_in_one_request(uris: Sequence[str]) -> list[str]:
    """Remove objects of one bucket of S3; those that could not be removed are returned. (s3fs's own `rm` is silent on them.)"""
    fs, _ = filesystem(uris[0])
    keys = {fs.split_path(fs._strip_protocol(uri))[1]: uri for uri in uris}
    bucket = fs.split_path(fs._strip_protocol(uris[0]))[0]
    wanted = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
    answer = retried(uris[0], lambda: fs.call_s3("delete_objects", Bucket=bucket, Delete=wanted))
    return [keys[error["Key"]] for error in answer.get("Errors", ()) if error.get("Key") in keys]


def delete_empty(uri: str) -> None:
    """Remove a local folder if nothing is in it; other stores have no empty folders."""
    if is_local(uri):
        with suppress(OSError):
            os.rmdir(uri)


def delete_folder(uri: str) -> None:
    """Remove everything below a folder or prefix, one by one in no certain order; one that is not there is fine."""
    fs, path = filesystem(uri)
    if not is_local(uri):
        names = retried(uri, lambda: fs.find(path))
        prefix = path.rstrip("/")
        delete_many(
            [f"{uri.rstrip('/')}{name.removeprefix(prefix)}" for name in names if name.startswith(f"{prefix}/")]
        )
        return

    def remove() -> None:
        try:
            fs.rm(path, recursive=True)
        except FileNotFoundError:
            return

    retried(uri, remove)


def retried(uri: str, call: Callable[[], T]) -> T:
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
