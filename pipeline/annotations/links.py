"""Local folders with symbolic links: links are followed, but neither in circles nor out of the folder that was named."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from shardlens.pipeline import storage


@dataclass
class LocalWalk:
    """Lists the files below a local folder, those behind symbolic links too."""

    root: str
    follow_out: bool = False
    """Follow links that lead out of `root`."""
    refused: list[str] = field(default_factory=list)
    """Names of the links that lead out of `root` and were not followed."""
    locked: list[str] = field(default_factory=list)
    """Names of the folders that may not be listed."""

    def files(self) -> Iterator[tuple[str, int, str | None]]:
        """Name relative to `root`, size in bytes and etag of each file; of what is no folder there are none."""
        if os.path.isdir(self.root):
            top = os.path.realpath(self.root)
            yield from self._below("", top, (top,))

    def _below(self, prefix: str, folder: str, above: tuple[str, ...]) -> Iterator[tuple[str, int, str | None]]:
        """Files below a folder.

        Args:
            prefix: its name relative to the root, with a slash.
            folder: its real path.
            above: real paths of the folders that contain it, and its own; a link to one of them is a circle.
        """
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except PermissionError:
            self.locked.append(prefix)
            return
        for entry in entries:
            name, is_link = prefix + entry.name, entry.is_symlink()
            target = os.path.realpath(entry.path) if is_link else entry.path
            if is_link and not self.follow_out and not _is_below(target, above[0]):
                self.refused.append(name)
            elif entry.is_dir():
                if target not in above:
                    yield from self._below(f"{name}/", target, (*above, target))
            elif not entry.name.startswith(".publishing-"):
                yield (name, *_mark(entry))


def _mark(entry: os.DirEntry[str]) -> tuple[int, str | None]:
    try:
        found = entry.stat()
    except OSError:  # a link to nothing: reading it will say so
        return 0, None
    return found.st_size, storage.etag(found)


def leading_out(root: str, paths: Sequence[str]) -> list[bool]:
    """Whether each local path, named below `root` or `root` itself, is a symbolic link out of it or lies behind one."""
    top = os.path.realpath(root)
    real: dict[str, str] = {}
    found = []
    for path in paths:
        if path == root:  # members of the tar that was named
            found.append(False)
            continue
        folder = os.path.dirname(path)
        if folder not in real:
            real[folder] = os.path.realpath(folder)
        target = os.path.realpath(path) if os.path.islink(path) else real[folder]
        found.append(not (_is_below(target, top) and _is_below(real[folder], top)))
    return found


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")
