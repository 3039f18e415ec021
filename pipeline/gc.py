"""Remove what no committed run names: what killed runs and deletions left, replaced parts, old versions of datasets.

What a run under way may need stays: whatever is young, unfinished runs until nothing has been written to them for long,
the latest version of each dataset, every version that a run refers to, and training runs. What has a record, or could get
one at any moment, is marked first and then looked at once more (`warehouse.removal`).
"""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from cyclopts import Parameter

from shardlens.pipeline import storage
from shardlens.pipeline.executors.base import Progress, ProgressListener, no_progress
from shardlens.pipeline.storage import Entry
from shardlens.pipeline.warehouse import ages, datasets, holdings, removal, runs
from shardlens.pipeline.warehouse.holdings import Training
from shardlens.pipeline.warehouse.layout import Warehouse, WarehouseRoot
from shardlens.pipeline.warehouse.removal import MARK, By, Removal, Removed
from shardlens.pipeline.warehouse.runs import RunRecord

STALE_MARK_S = 600.0
"""A mark of this age was left by a gc that was killed."""
PUBLISHED_S = 3600.0
"""Parts that a commit does not name stay for this long at least: a retry under way publishes some before it vouches for them."""
OF_TRAINING = re.compile(r"step-\d+/[^/]+|owner|training\.parquet|metrics\.parquet")
"""What a training run that is neither begun nor complete can have left."""
INTERRUPTED = "its deletion was interrupted"


@dataclass(frozen=True)
class GcConfig:
    """What to remove."""

    _: KW_ONLY
    older_than: str = "1d"
    """Leave alone what was written within this time: a command under way, or a slow reader, may need it."""
    unfinished: str = "7d"
    """Also remove unfinished runs to which nothing was written for this long; their commands cannot resume them then."""
    dry_run: Annotated[bool, Parameter(negative="")] = False
    """Say what would be removed, and remove nothing."""
    warehouse: WarehouseRoot = "./warehouse"
    """Root of the tables."""

    def __post_init__(self) -> None:
        _ = self.kept_s, self.unfinished_s

    @property
    def kept_s(self) -> float:
        """Seconds for which everything stays."""
        return ages.seconds(self.older_than, "older_than")

    @property
    def unfinished_s(self) -> float:
        """Seconds for which an unfinished run stays after the last write to it."""
        return max(self.kept_s, ages.seconds(self.unfinished, "unfinished"))


@dataclass(frozen=True)
class GcReport:
    """What was removed, or would be."""

    removed: tuple[Removed, ...]
    objects: int
    bytes: int
    dry_run: bool


def gc(config: GcConfig, progress: ProgressListener = no_progress) -> GcReport:
    """Remove what no committed run names, and finish deletions that were interrupted.

    Raises:
        StorageError: the place is not a warehouse or cannot be read or written, or a document in it is damaged, so that it
            is not known what is needed.
    """
    warehouse = Warehouse(config.warehouse)
    warehouse.check()
    removals = list(_Look(warehouse, config).removals())
    if not config.dry_run:
        removals = _confirmed(warehouse, config, removals)
        for done, (by, each) in enumerate(_by(removals)):
            progress(Progress("gc", done, len(removals), "things", each.name))
            _remove(each, by)
        progress(Progress("gc", len(removals), len(removals), "things"))
    return GcReport(*removal.totals(removals), config.dry_run)


def _by(removals: Sequence[Removal]) -> list[tuple[By, Removal]]:
    """Removals, each with who decided on it."""
    return [("delete" if each.why == INTERRUPTED else "gc", each) for each in removals]


def _remove(each: Removal, by: By) -> None:
    if each.kind == "leftovers":
        for folder in {entry.uri.rpartition("/")[0] for entry in each.rest}:
            storage.tidy(folder)  # which looks at their locks once more
    else:
        removal.remove(each, by)


def _confirmed(warehouse: Warehouse, config: GcConfig, removals: Sequence[Removal]) -> list[Removal]:
    """Those that still are to be removed once they are marked, so that who begins something now sees the mark."""
    marked = [each for by, each in _by(removals) if by == "gc" and each.folder]
    if marked:
        for each in marked:
            removal.mark(each, "gc")
        again = {(each.kind, each.name): each for each in _Look(warehouse, config).removals()}
        for each in marked:
            if (each.kind, each.name) not in again:
                removal.unmark(each)
        removals = [again[key] for each in removals if (key := (each.kind, each.name)) in again]
    for folder in _stale_marks(warehouse, {each.folder for each in removals}):
        storage.delete(storage.join(folder, MARK))
    return list(removals)


def _stale_marks(warehouse: Warehouse, needed: set[str]) -> Iterator[str]:
    """Folders whose marks a killed gc left, and that are to stay."""
    for root in ("runs", "datasets", "checkpoints"):
        for entry in storage.walk(warehouse.path(root)):
            folder, _, name = entry.uri.rpartition("/")
            stale = name == MARK and folder not in needed and entry.modified < time.time() - STALE_MARK_S
            if stale and removal.marked_by(folder) == "gc":
                yield folder


class _Look:
    """What gc sees of a warehouse at one moment."""

    def __init__(self, warehouse: Warehouse, config: GcConfig) -> None:
        self.warehouse = warehouse
        now = time.time()
        self.old, self.abandoned = now - config.kept_s, now - config.unfinished_s
        self.replaced = now - max(config.kept_s, PUBLISHED_S)
        self.now = now

    def removals(self) -> Iterator[Removal]:
        """What is to be removed."""
        of_runs = holdings.of_every_run(self.warehouse)
        of_datasets = holdings.by_folder(self.warehouse, "datasets")
        of_trainings = holdings.by_folder(self.warehouse, "checkpoints")
        records = {record.name: record for record in runs.every(self.warehouse)}
        trained = holdings.trainings(self.warehouse, of_trainings)
        for name, entries in sorted(of_runs.items()):
            yield from self._of_run(name, entries, records.get(name))
        for name, entries in sorted(of_datasets.items()):
            yield from self._of_dataset(name, entries, _versions_needed(name, records, trained))
        for name, entries in sorted(of_trainings.items()):
            yield from self._of_training(name, entries, next((t for t in trained if t.name == name), None))
        leftovers = [entry for entry in storage.unfinished(self.warehouse.root) if entry.modified < self.now - 60]
        if leftovers:
            yield Removal("leftovers", self.warehouse.root, "left by processes that died", rest=tuple(leftovers))

    def _of_run(self, name: str, entries: Sequence[Entry], record: RunRecord | None) -> Iterator[Removal]:
        folder = self.warehouse.run(name)
        if _is_marked_by_delete(folder, entries):
            yield holdings.removal_of_run(self.warehouse, name, INTERRUPTED, entries)
        elif record is None:
            if _written(entries) <= self.old:
                yield holdings.removal_of_run(self.warehouse, name, "there is no such run", entries)
        elif record.commit is None:
            if _written(entries) <= self.abandoned:
                idle = ages.ago(self.now - _written(entries))
                yield holdings.removal_of_run(self.warehouse, name, f"unfinished, nothing written for {idle}", entries)
        elif _modified(entries, f"{folder}/commit.json") <= self.replaced:
            replaced = self._replaced(record, entries)
            if replaced:
                yield Removal("parts", name, "replaced, or never committed", rest=tuple(replaced))

    def _replaced(self, record: RunRecord, entries: Sequence[Entry]) -> list[Entry]:
        """Parts of a committed run that it does not name; those below another dataset were left by an earlier run."""
        place = f"dataset={record.dataset}/run={record.name}"
        own: dict[tuple[str, str], Entry] = {}
        strange = []
        for entry in entries:
            table, _, path = storage.relative(self.warehouse.root, entry.uri).partition("/")
            folder, _, name = path.rpartition("/")
            if table in ("predictions", "outcomes") and folder == place:
                own[table, name] = Entry(entry.uri, name, entry.size, _time(entry))
            elif table != "runs" and not f"{path}/".startswith(f"{place}/") and _time(entry) <= self.old:
                strange.append(entry)
        return [*runs.unneeded(record, own, self.now - self.replaced), *strange]

    def _of_dataset(self, name: str, entries: Sequence[Entry], needed: set[str]) -> Iterator[Removal]:
        folder = self.warehouse.dataset(name)
        if _is_marked_by_delete(folder, entries):
            yield holdings.removal_of_dataset(self.warehouse, name, INTERRUPTED, entries)
            return
        pointer = datasets.latest(self.warehouse, name)
        if pointer is None:
            if _written(entries) <= self.old:
                yield holdings.removal_of_dataset(self.warehouse, name, "its ingest never finished", entries)
            return
        latest = datasets.version_of(self.warehouse, name, pointer)
        versions = _by_version(folder, entries)
        if _modified(entries, f"{folder}/latest.json") > self.old:  # who opened it before may be about to begin a run
            needed = needed | {_newest(folder, {v: e for v, e in versions.items() if v != latest})}
        for version, inside in sorted(versions.items()):
            why = self._why_removed(f"{folder}/{version}", inside, version in needed or "" in needed)
            if why and version != latest:
                yield holdings.removal_of_version(self.warehouse, name, version, why, inside)

    def _why_removed(self, folder: str, entries: Sequence[Entry], needed: bool) -> str:
        """Why a version that is not the latest is removed; empty if it is not."""
        if _is_marked_by_delete(folder, entries):
            return INTERRUPTED
        if _written(entries) > self.old:
            return ""
        if not _modified(entries, f"{folder}/dataset.json"):
            return "its ingest never finished"
        return "" if needed else "no run refers to it"

    def _of_training(self, name: str, entries: Sequence[Entry], training: Training | None) -> Iterator[Removal]:
        folder = self.warehouse.checkpoints(name)
        if _is_marked_by_delete(folder, entries):
            yield holdings.removal_of_training(self.warehouse, name, INTERRUPTED, entries)
        elif training is None:
            paths = [entry.uri.removeprefix(f"{folder}/") for entry in entries]
            if _written(entries) <= self.old and all(path == MARK or OF_TRAINING.fullmatch(path) for path in paths):
                yield holdings.removal_of_training(self.warehouse, name, "there is no such training run", entries)
        elif training.complete and training.written <= self.old:
            steps = _by_version(folder, entries)
            begun = [e for step, inside in steps.items() if step.startswith("step-") for e in _unfinished_step(inside)]
            if begun:
                yield Removal("parts", name, "checkpoints that were not written to their end", rest=tuple(begun))


def _versions_needed(name: str, records: Mapping[str, RunRecord], trained: Sequence[Training]) -> set[str]:
    """Versions of a dataset that runs refer to; an empty one stands for all, of an unfinished training run that names none."""
    of_runs = {record.dataset_version for record in records.values() if record.dataset == name}
    mine = [training for training in trained if training.dataset == name]
    return of_runs | {training.version for training in mine if training.version or not training.complete}


def _is_marked_by_delete(folder: str, entries: Sequence[Entry]) -> bool:
    return any(entry.uri == f"{folder}/{MARK}" for entry in entries) and removal.marked_by(folder) == "delete"


def _written(entries: Sequence[Entry]) -> float:
    """When anything but a mark was written last."""
    return max((_time(entry) for entry in entries if not entry.uri.endswith(f"/{MARK}")), default=0.0)


def _time(entry: Entry) -> float:
    """When an object was written; never long ago where the store does not say."""
    return entry.modified or math.inf


def _modified(entries: Sequence[Entry], uri: str) -> float:
    """When an object was written; 0 if it is not there."""
    return next((_time(entry) for entry in entries if entry.uri == uri), 0.0)


def _by_version(folder: str, entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The objects in the folders below a folder, by the name of theirs."""
    inside: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        name, slash, _ = entry.uri.removeprefix(f"{folder}/").partition("/")
        if slash:
            inside[name].append(entry)
    return dict(inside)


def _newest(folder: str, versions: Mapping[str, Sequence[Entry]]) -> str:
    """The version that was written last; a name that none has if there are none."""
    return max(versions, key=lambda v: _modified(versions[v], f"{folder}/{v}/dataset.json"), default="-")


def _unfinished_step(entries: Sequence[Entry]) -> list[Entry]:
    """The files of a checkpoint on the way that lacks its checkpoint.json."""
    return [] if any(entry.uri.endswith("/checkpoint.json") for entry in entries) else list(entries)
