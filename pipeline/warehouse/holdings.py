"""What a warehouse holds of each run, dataset and training run, object by object, and which of them refer to which."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from shardlens.pipeline import storage
from shardlens.pipeline.storage import Entry
from shardlens.pipeline.warehouse import documents, removal
from shardlens.pipeline.warehouse.documents import TrainDocument
from shardlens.pipeline.warehouse.layout import NAME, Warehouse
from shardlens.pipeline.warehouse.removal import Removal
from shardlens.pipeline.warehouse.runs import RunRecord

TABLES = ("predictions", "outcomes", "metrics", "curves", "partials")
"""Folders below the root that hold `dataset=<name>/run=<run>/...`."""
OF_RUN = re.compile(r"dataset=(?P<dataset>[^/]+)/run=(?P<run>[^/]+)/.")
STEP_DONE = re.compile(r"step-(\d+)/checkpoint\.json")
LISTED_AT_ONCE = 16


def of_every_run(warehouse: Warehouse) -> dict[str, list[Entry]]:
    """The objects of every run by its name, whether or not it has a record: records, parts and scores."""
    owned: dict[str, list[Entry]] = defaultdict(list)
    for entry in storage.walk(warehouse.path("runs")):
        if "/" in entry.name:
            owned[entry.name.partition("/")[0]].append(entry)
    with ThreadPoolExecutor(len(TABLES)) as threads:
        for entries in threads.map(storage.walk, [warehouse.path(table) for table in TABLES]):
            for entry in entries:
                if place := OF_RUN.match(entry.name):
                    owned[place["run"]].append(entry)
    return {name: entries for name, entries in owned.items() if NAME.fullmatch(name)}


def of_runs(warehouse: Warehouse, names: Sequence[str]) -> dict[str, list[Entry]]:
    """The objects of some runs, in whichever dataset's folders they lie."""
    folders = [(table, folder) for table in TABLES for folder in storage.children(warehouse.path(table))]
    found = {}
    with ThreadPoolExecutor(LISTED_AT_ONCE) as threads:
        for name in names:
            places = [warehouse.path(table, folder, f"run={name}") for table, folder in folders]
            lists = threads.map(storage.walk, [warehouse.run(name), *places])
            found[name] = [entry for entries in lists for entry in entries]
    return found


def removal_of_run(warehouse: Warehouse, name: str, why: str, entries: Iterable[Entry]) -> Removal:
    """How a run is removed: its commit, its record, then parts and scores."""
    return removal.made_of("run", name, why, warehouse.run(name), entries, ("commit.json", "run.json"))


def removal_of_training(warehouse: Warehouse, name: str, why: str, entries: Sequence[Entry]) -> Removal:
    """How a training run is removed: its report and record, its owner, which ends one that still trains, its weights."""
    folder = warehouse.checkpoints(name)
    steps = [n for n in (entry.uri.removeprefix(f"{folder}/") for entry in entries) if STEP_DONE.fullmatch(n)]
    visible = ("train.json", "run.json", "owner", "model.safetensors", *steps)
    return removal.made_of("checkpoint", name, why, folder, entries, visible)


def removal_of_dataset(warehouse: Warehouse, name: str, why: str, entries: Sequence[Entry]) -> Removal:
    """How a dataset is removed: the pointer to its latest version, then the versions."""
    folder = warehouse.dataset(name)
    names = [entry.uri.removeprefix(f"{folder}/") for entry in entries]
    visible = ("latest.json", *(each for each in names if each.endswith("/dataset.json")))
    return removal.made_of("dataset", name, why, folder, entries, visible)


def removal_of_version(warehouse: Warehouse, name: str, version: str, why: str, entries: Iterable[Entry]) -> Removal:
    """How a version of a dataset is removed."""
    folder = warehouse.dataset(name, version)
    return removal.made_of("version", f"{name}@{version}", why, folder, entries, ("dataset.json",))


def by_folder(warehouse: Warehouse, *parts: str) -> dict[str, list[Entry]]:
    """The objects below a folder of the root, by the folder in it that they lie in."""
    owned: dict[str, list[Entry]] = defaultdict(list)
    for entry in storage.walk(warehouse.path(*parts)):
        name, slash, _ = entry.name.partition("/")
        if slash and NAME.fullmatch(name):
            owned[name].append(entry)
    return dict(owned)


@dataclass(frozen=True)
class Training:
    """A training run as its folder says."""

    name: str
    dataset: str
    version: str
    """Of the dataset; empty where an earlier version of Shardlens did not note it."""
    complete: bool
    entries: tuple[Entry, ...]

    @property
    def written(self) -> float:
        """When anything of it was written last."""
        return max(entry.modified for entry in self.entries)


def trainings(warehouse: Warehouse, owned: Mapping[str, list[Entry]] | None = None) -> list[Training]:
    """The training runs, complete or not, by name.

    Args:
        owned: their objects, if they are listed already.
    """
    owned = by_folder(warehouse, "checkpoints") if owned is None else owned
    found = []
    for name, entries in sorted(owned.items()):
        there = {entry.uri.rpartition("/")[2]: entry for entry in entries if entry.uri.count("/") == _depth(warehouse)}
        mark = there.get("train.json") or there.get("run.json")
        if mark is not None:
            document = documents.read(TrainDocument, mark.uri)
            dataset, _, version = document.dataset.partition("@")
            version = version or document.dataset_version or str(document.settings.get("dataset_version") or "")
            found.append(Training(name, dataset, version, "train.json" in there, tuple(entries)))
    return found


def _depth(warehouse: Warehouse) -> int:
    return warehouse.checkpoints("x").count("/") + 1


def weights_of(record: RunRecord) -> list[str]:
    """URIs of the weights that a run was predicted with; empty for one that was not predicted here."""
    config: Any = record.origin.get("config")
    network = config.get("network") if isinstance(config, dict) else None
    inference = config.get("inference") if isinstance(config, dict) else None
    weights = network.get("weights") if isinstance(network, dict) else None
    ensemble = inference.get("ensemble") if isinstance(inference, dict) else None
    return [uri for uri in (weights, *(ensemble or ())) if isinstance(uri, str)]


def takes_weights_of(record: RunRecord, checkpoint: str) -> bool:
    """Whether a run was predicted with weights from the folder of a training run."""
    folder = record.warehouse.checkpoints(checkpoint)
    return any(uri == folder or uri.startswith(f"{folder}/") for uri in weights_of(record))
