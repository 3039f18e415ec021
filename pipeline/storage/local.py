"""Files of this machine: written under another name and then put in place, so that readers never see a part of one.

A file being written is called `.publishing-...` and is locked by its writer. One whose lock is free was left by a process
that died, and is removed by the next process that writes in its folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import BinaryIO

UNFINISHED = ".publishing-"
"""Prefix of files that no reader lists."""
NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL}
TRIES = 5

_tidied: set[tuple[int, str]] = set()
"""Folders that this process has tidied, by its id: a forked child starts anew."""


def replace(path: str, fill: Callable[[BinaryIO], object]) -> None:
    """Write a file in the place of what may be there."""
    _write(path, fill, os.replace)


def create(path: str, fill: Callable[[BinaryIO], object]) -> None:
    """Write a file that is not there yet.

    Raises:
        FileExistsError: it is there.
    """
    _write(path, fill, _place_new)


def swap(path: str, expected: bytes, data: bytes) -> bool:
    """Write a file in the place of one that holds `expected`; False if it holds something else, or is gone."""
    with _locked(path):
        try:
            with open(path, "rb") as file:
                there = file.read()
        except FileNotFoundError:
            return False
        if there != expected:
            return False
        replace(path, lambda file: file.write(data))
    return True


def copy_from(source: str) -> Callable[[BinaryIO], object]:
    """Return what fills a file with the bytes of the file `source`."""

    def fill(target: BinaryIO) -> None:
        with open(source, "rb") as file:
            shutil.copyfileobj(file, target, 1 << 20)

    return fill


def tidy(folder: str) -> None:
    """Remove the unfinished files of processes that died, in this folder alone."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.startswith(UNFINISHED)]
    except OSError:
        return
    for name in names:
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError), open(path, "rb+") as file:  # BlockingIOError: its writer is alive
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)


def left(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """The unfinished files below a folder whose writers died."""
    for place, _, names in os.walk(folder):
        for path in (os.path.join(place, name) for name in names if name.startswith(UNFINISHED)):
            with contextlib.suppress(OSError), open(path, "rb+") as file:  # BlockingIOError: its writer is alive
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield path, os.fstat(file.fileno())


def _write(path: str, fill: Callable[[BinaryIO], object], place: Callable[[str, str], None]) -> None:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    if (os.getpid(), folder) not in _tidied:
        tidy(folder)
        _tidied.add((os.getpid(), folder))
    for attempt in range(TRIES):
        handle, temporary = tempfile.mkstemp(prefix=UNFINISHED, dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                _lock(file.fileno(), wait=False)
                fill(file)
                file.flush()
                os.fsync(file.fileno())
                with contextlib.suppress(PermissionError):  # a file system without modes
                    os.chmod(temporary, 0o644)
                place(temporary, path)
        except FileNotFoundError:  # removed before it was locked, or where locks do not reach other machines
            if attempt == TRIES - 1 or os.path.exists(temporary) or not os.path.isdir(folder):
                raise
        else:
            return
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def _place_new(temporary: str, path: str) -> None:
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in NO_LINKS or not os.path.exists(temporary):
            raise
        with _locked(path):  # a file system without hard links
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
            os.replace(temporary, path)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold the lock of a path against other processes; a process that dies frees it."""
    lock = os.path.join(os.path.dirname(path), f"{UNFINISHED}lock-{os.path.basename(path)}")
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        _lock(handle, wait=True)
        if _is_still(lock, handle):
            break
        os.close(handle)  # who held it before has removed the file
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(lock)
        os.close(handle)


def _lock(handle: int, wait: bool) -> None:
    """Lock an open file; where the file system knows no locks, go on without."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def _is_still(path: str, handle: int) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(handle))


def etag(stat: os.stat_result) -> str:
    """What stands for a file's content: when it was written, and its size."""
    return etag_of(stat.st_mtime_ns, stat.st_size)


def etag_of(nanoseconds: int, size: int) -> str:
    """The same of an object of a store that has no tags of its own."""
    return f"{nanoseconds:x}-{size:x}"
