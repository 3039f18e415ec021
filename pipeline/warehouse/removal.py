"""Removing a run, a checkpoint, or a dataset so that a kill in the middle leaves nothing half visible.

The order is that of `remove`: a mark in the thing's folder, what makes it visible, everything else, the mark. Who begins
something writes his record first and looks for the mark then; who removes something on his own account, as gc does, writes
the mark first and looks for records then. So one of the two sees the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from shardlens.pipeline import storage
from shardlens.pipeline.errors import LocationNotFoundError, RunError
from shardlens.pipeline.storage import Entry
from shardlens.pipeline.warehouse.layout import parse_json, to_json

MARK = "deleting.json"
"""In the folder of what is being removed; written first, removed last."""
By = Literal["delete", "gc"]
"""Who marked it: a user, whose decision stands, or gc, which decides anew each time."""
Kind = Literal["run", "dataset", "checkpoint", "version", "parts", "leftovers"]


@dataclass(frozen=True)
class Removal:
    """A thing to be removed, and the objects that it is made of."""

    kind: Kind
    name: str
    why: str
    folder: str = ""
    """Where its mark goes; empty for loose objects, which nobody sees."""
    first: tuple[Entry, ...] = ()
    """What makes it visible, in the order in which it is to go."""
    rest: tuple[Entry, ...] = ()

    @property
    def objects(self) -> int:
        """How many objects it is made of."""
        return len(self.first) + len(self.rest)

    @property
    def bytes(self) -> int:
        """Their size."""
        return sum(entry.size for entry in (*self.first, *self.rest))

    @property
    def written(self) -> float:
        """When the last of them was written, in seconds since 1970."""
        return max((entry.modified for entry in (*self.first, *self.rest)), default=0.0)


@dataclass(frozen=True)
class Removed:
    """A thing that was removed, or would be."""

    kind: Kind
    name: str
    objects: int
    bytes: int
    why: str


def totals(removals: Sequence[Removal]) -> tuple[tuple[Removed, ...], int, int]:
    """What removals remove, for a report; how many objects, and bytes."""
    removed = tuple(Removed(r.kind, r.name, r.objects, r.bytes, r.why) for r in removals)
    return removed, sum(each.objects for each in removed), sum(each.bytes for each in removed)


def made_of(
    kind: Kind, name: str, why: str, folder: str, entries: Iterable[Entry], visible: Sequence[str] = ()
) -> Removal:
    """Sort the objects of a thing into those that make it visible, by their URI below `folder`, and the rest."""
    there = {entry.uri: entry for entry in entries if entry.uri != storage.join(folder, MARK)}
    first = [there.pop(uri) for uri in (storage.join(folder, name) for name in visible) if uri in there]
    return Removal(kind, name, why, folder, tuple(first), tuple(there.values()))


def mark(removal: Removal, by: By) -> None:
    """Announce a removal."""
    if removal.folder:
        storage.publish(storage.join(removal.folder, MARK), to_json({"by": by}))


def unmark(removal: Removal) -> None:
    """Take a removal's announcement back, or end it."""
    if removal.folder:
        storage.delete(storage.join(removal.folder, MARK))


def marked_by(folder: str) -> By | None:
    """Who is removing what lies in the folder, or began to; None: nobody.

    Raises:
        StorageError: the mark cannot be read.
    """
    uri = storage.join(folder, MARK)
    try:
        document = parse_json(uri, storage.read(uri))
    except LocationNotFoundError:
        return None
    return "delete" if isinstance(document, dict) and document.get("by") == "delete" else "gc"


def check_stays(folder: str, what: str) -> None:
    """Make sure that nobody is removing what lies in the folder.

    Raises:
        RunError: somebody is, or was stopped while doing so.
    """
    if marked_by(folder) is not None:
        raise RunError(
            f"{what} is being deleted, or a deletion of it was interrupted: wait until it has ended, or finish it with "
            "'shardlens gc', then rerun this command"
        )


def remove(removal: Removal, by: By) -> None:
    """Remove a thing; what is gone already is fine."""
    mark(removal, by)
    for entry in removal.first:
        storage.delete(entry.uri)
    storage.delete_many([entry.uri for entry in removal.rest])
    folders = {entry.uri.rpartition("/")[0] for entry in (*removal.first, *removal.rest)} - {removal.folder}
    for folder in sorted(folders, reverse=True):
        storage.tidy(folder)
        storage.delete_empty(folder)
    unmark(removal)
    if removal.folder:
        storage.tidy(removal.folder)
        storage.delete_empty(removal.folder)
