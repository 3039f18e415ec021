"""What lies below a folder or prefix."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from shardlens.pipeline.errors import BucketNotFoundError, LocationNotFoundError
from shardlens.pipeline.storage import local
from shardlens.pipeline.storage.objects import filesystem, retried
from shardlens.pipeline.storage.uris import is_local

TAGS = ("md5Hash", "ETag", "etag")
"""Names that libraries have for it; Google's etag changes with an object's metadata too, its MD5 goes first."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object below a prefix."""

    uri: str
    name: str
    """Its path relative to the prefix."""
    size: int
    modified: float = 0.0
    """When it was written, in seconds since 1970 by the store's clock; 0 where the store does not tell."""
    etag: str | None = None
    """Another one = another content: the store's own, else the time and size; None where it tells neither, and of
    local files that were listed and not asked for by themselves."""


def size(uri: str) -> int:
    """Bytes of an object."""
    return stat(uri).size


def stat(uri: str) -> Entry:
    """An object by itself; its name is the last part of its URI."""
    fs, path = filesystem(uri)
    entry = _entry(uri, PurePosixPath(path).name, retried(uri, lambda: fs.info(path)))
    return replace(entry, etag=local.etag(os.stat(uri))) if is_local(uri) else entry


def exists(uri: str) -> bool:
    """Whether an object (or a folder, or something below the prefix) is there."""
    fs, path = filesystem(uri)
    try:
        retried(uri, lambda: fs.info(path))
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
        found = retried(uri, lambda: fs.ls(path, detail=True))
    except BucketNotFoundError:
        raise
    except LocationNotFoundError:
        return []
    marker = f"{path.rstrip('/')}/"  # an empty object that stores and their consoles keep for an empty folder
    below = [entry for entry in found if entry["name"] != marker]
    entries = [(PurePosixPath(str(entry["name"])).name, entry["type"] == "directory") for entry in below]
    visible = [(name, folder) for name, folder in entries if not name.startswith(local.UNFINISHED)]
    return sorted(f"{name}/" if folder else name for name, folder in visible)


def walk(uri: str) -> list[Entry]:
    """Every object below a folder or prefix, sorted by its relative name; none are below what is not there."""
    fs, path = filesystem(uri)
    try:
        found: dict[str, dict[str, Any]] = retried(uri, lambda: fs.find(path, detail=True))
    except LocationNotFoundError:
        return []
    prefix = path.rstrip("/") + "/"
    below = ((name[len(prefix) :], info) for name, info in found.items() if name.startswith(prefix))
    entries = [_entry(f"{uri.rstrip('/')}/{name}", name, info) for name, info in below if name]
    return sorted(
        (e for e in entries if not PurePosixPath(e.name).name.startswith(local.UNFINISHED)), key=lambda e: e.name
    )


def _entry(uri: str, name: str, info: dict[str, Any]) -> Entry:
    size, modified = int(info["size"] or 0), _modified(info)
    tag = next((str(info[key]) for key in TAGS if info.get(key)), None)
    time = local.etag_of(int(modified * 1e9), size) if modified and not is_local(uri) else None
    return Entry(uri, name, size, modified, tag.strip('"') if tag else time)


def _modified(info: dict[str, Any]) -> float:
    """The time under the name that each library has for it."""
    time = next((info[key] for key in ("mtime", "LastModified", "last_modified", "created") if info.get(key)), 0.0)
    return time.timestamp() if isinstance(time, datetime) else float(time) if isinstance(time, int | float) else 0.0


def tidy(uri: str) -> None:
    """Remove what processes that died left unfinished in a local folder; other stores show no unfinished objects."""
    if is_local(uri):
        local.tidy(uri)


def unfinished(uri: str) -> list[Entry]:
    """What dead processes left unfinished below a local folder, which nothing else lists; `tidy` removes it, folder by folder."""
    if not is_local(uri):
        return []
    return [
        Entry(path, path.removeprefix(f"{uri}/"), status.st_size, status.st_mtime) for path, status in local.left(uri)
    ]
