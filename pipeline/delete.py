"""Delete runs, datasets and checkpoints: by name, or those that are old, or all but the newest.

What to delete is planned first, so that it can be shown and confirmed; then it is removed, each thing so that a kill in
the middle leaves nothing half visible (`warehouse.removal`). The same command again, or `gc`, finishes such a deletion.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Annotated, Literal, get_args

from cyclopts import Parameter

from shardlens.pipeline.errors import ConfigError, DatasetError, RunError
from shardlens.pipeline.executors.base import Progress, ProgressListener, no_progress
from shardlens.pipeline.storage import Entry
from shardlens.pipeline.warehouse import ages, datasets, holdings, removal, runs
from shardlens.pipeline.warehouse.choosing import Candidate, chosen, is_pattern, matched
from shardlens.pipeline.warehouse.holdings import Training
from shardlens.pipeline.warehouse.layout import Warehouse, WarehouseRoot, check_name
from shardlens.pipeline.warehouse.removal import Kind, Removal, Removed
from shardlens.pipeline.warehouse.runs import RunRecord

UNDER_WAY_S: dict[Kind, float] = {"run": 3600.0, "checkpoint": 24 * 3600.0}
"""An unfinished run that was written to within this time is taken to be under way; a training may write nothing for hours."""
LISTED = 8
What = Literal["run", "dataset", "checkpoint"]


@dataclass(frozen=True)
class DeleteConfig:
    """What to delete."""

    kind: What
    """run, dataset or checkpoint (a training run)."""
    names: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """Names, or patterns such as 'nightly-*'; of datasets also NAME@VERSION. Default: all, as far as --older-than and --keep
    say."""
    _: KW_ONLY
    dataset: str | None = None
    """Runs and checkpoints: only those of this dataset."""
    older_than: str | None = None
    """Only those that were finished longer ago than this, such as 30d or 12h."""
    keep: int | None = None
    """Leave the newest N of each dataset and model."""
    with_runs: Annotated[bool, Parameter(negative="")] = False
    """Datasets: delete the runs that refer to it, too."""
    force: Annotated[bool, Parameter(negative="")] = False
    """Also delete what seems to be under way, and datasets and checkpoints that runs need; these runs stay."""
    dry_run: Annotated[bool, Parameter(negative="")] = False
    """Say what would be deleted, and delete nothing."""
    warehouse: WarehouseRoot = "./warehouse"
    """Root of the tables."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(What):
            raise ConfigError(f"{self.kind!r} cannot be deleted: expected {', '.join(get_args(What))}")
        if not self.names and self.older_than is None and self.keep is None:
            raise ConfigError(f"no {self.kind} named: name some, or say which with --older-than or --keep")
        if self.keep is not None and self.keep < 0:
            raise ConfigError(f"keep is {self.keep}: expected 0 or more")
        if self.kind == "dataset" and (self.dataset or self.older_than or self.keep is not None):
            raise ConfigError(
                "--dataset, --older-than and --keep are for runs and checkpoints: old versions of datasets are removed by "
                "'shardlens gc'"
            )
        if self.with_runs and self.kind != "dataset":
            raise ConfigError(f"--with-runs is for datasets, and a {self.kind} is to be deleted")
        _ = self.older_s

    @property
    def older_s(self) -> float | None:
        """The least age in seconds."""
        return None if self.older_than is None else ages.seconds(self.older_than, "older_than")

    @property
    def chooses(self) -> bool:
        """Whether age and number choose, and not the names alone."""
        return self.older_than is not None or self.keep is not None


@dataclass(frozen=True)
class DeleteReport:
    """What was deleted, or would be."""

    removed: tuple[Removed, ...]
    objects: int
    bytes: int
    notes: tuple[str, ...]
    dry_run: bool


@dataclass(frozen=True)
class Plan:
    """What a deletion would remove."""

    removals: tuple[Removal, ...]
    notes: tuple[str, ...] = ()
    """What to know before, a sentence each."""

    @property
    def report(self) -> DeleteReport:
        """What it would delete."""
        return DeleteReport(*removal.totals(self.removals), self.notes, True)


def delete(config: DeleteConfig, progress: ProgressListener = no_progress) -> DeleteReport:
    """Delete runs, datasets or checkpoints; what is not there is fine.

    Raises:
        RunError: a run seems to be under way, or a checkpoint is needed by one that is.
        DatasetError: runs refer to a dataset, or a version is the latest.
        StorageError: the place is not a warehouse, or cannot be read or written.
    """
    plan = planned(config)
    return plan.report if config.dry_run else carry_out(plan, progress)


def carry_out(plan: Plan, progress: ProgressListener = no_progress) -> DeleteReport:
    """Remove what was planned."""
    for done, each in enumerate(plan.removals):
        progress(Progress("delete", done, len(plan.removals), "things", each.name))
        removal.remove(each, "delete")
    if plan.removals:
        progress(Progress("delete", len(plan.removals), len(plan.removals), "things"))
    return replace(plan.report, dry_run=False)


def planned(config: DeleteConfig) -> Plan:
    """What the configuration means in the warehouse as it is now.

    Raises:
        ShardlensError: see `delete`.
    """
    warehouse = Warehouse(config.warehouse)
    warehouse.check()
    plans = {"run": _runs, "dataset": _datasets, "checkpoint": _checkpoints}
    return plans[config.kind](config, warehouse)


def _runs(config: DeleteConfig, warehouse: Warehouse) -> Plan:
    owned = holdings.of_every_run(warehouse) if not config.names or config.chooses or len(config.names) > 1 else None
    known = sorted(owned or {*runs.names(warehouse), *(name for name in config.names if _is_plain(name))})
    names, notes = matched(config.kind, config.names, known) if config.names else (known, [])
    if config.chooses or config.dataset:
        records = {record.name: record for record in runs.every(warehouse)}
        candidates = [
            Candidate(
                name,
                (records[name].dataset, str(records[name].settings.get("model"))),
                _time_of(owned[name] if owned else holdings.of_runs(warehouse, [name])[name], "commit.json"),
                records[name].commit is not None,
            )
            for name in names
            if name in records
        ]
        names = _chosen(config, candidates)
    if owned is None:
        owned = holdings.of_runs(warehouse, names)
        notes += [f"there is no run {name!r}: nothing to delete" for name in names if not owned[name]]
    made = [
        holdings.removal_of_run(warehouse, name, "as asked", owned[name])
        for name in names
        if owned[name] or removal.marked_by(warehouse.run(name))
    ]
    if not config.force:
        _check_idle(made)
    return Plan(tuple(made), tuple(notes))


def _chosen(config: DeleteConfig, candidates: Sequence[Candidate]) -> list[str]:
    of_dataset = [each for each in candidates if config.dataset in (None, each.group[0])]
    return chosen(of_dataset, config.older_s or 0.0, config.keep or 0)


def _is_plain(name: str) -> bool:
    return not is_pattern(name) and bool(check_name(name, "run"))


def _time_of(entries: Sequence[Entry], name: str) -> float:
    return next((entry.modified for entry in entries if entry.uri.endswith(f"/{name}")), 0.0)


def _check_idle(made: Sequence[Removal]) -> None:
    """Make sure that no unfinished run was written to a short while ago.

    Raises:
        RunError: one was.
    """
    for each in made:
        if removal.marked_by(each.folder) == "delete":
            continue
        names = {entry.uri.rpartition("/")[2] for entry in each.first}
        idle = time.time() - each.written
        if "run.json" in names and not names & {"commit.json", "train.json"} and idle < UNDER_WAY_S[each.kind]:
            what = "training run" if each.kind == "checkpoint" else "run"
            raise RunError(
                f"{what} {each.name!r} is unfinished and was written to {ages.ago(idle)} ago, so it may be under way: "
                "stop its command first, then delete it with --force"
            )


def _datasets(config: DeleteConfig, warehouse: Warehouse) -> Plan:
    owned = holdings.by_folder(warehouse, "datasets")
    versions = [
        f"{name}@{version}" for name, entries in owned.items() for version in _versions(warehouse, name, entries)
    ]
    names, notes = matched(config.kind, config.names, [*owned, *versions])
    made = [_removal_of(warehouse, name, owned) for name in names]
    trained = holdings.trainings(warehouse)
    records = runs.every(warehouse)
    referring: dict[str, None] = {}
    for each in made:
        named, _, version = each.name.partition("@")
        users = [r.name for r in records if r.dataset == named and version in ("", r.dataset_version)]
        under_way = [t.name for t in trained if _needs(t, named, version)]
        if ((users and not config.with_runs) or under_way) and not config.force:
            raise DatasetError(_refusal(each.name, users, under_way))
        referring |= dict.fromkeys(users)
    if not config.with_runs:
        notes += [f"runs that refer to it stay, and cannot be scored or resumed: {_some(list(referring))}"] * bool(
            referring
        )
        return Plan(tuple(made), tuple(notes))
    with_them = (
        _runs(replace(config, kind="run", names=tuple(referring), with_runs=False), warehouse)
        if referring
        else Plan(())
    )
    return Plan((*with_them.removals, *made), (*notes, *with_them.notes))


def _versions(warehouse: Warehouse, name: str, entries: Sequence[Entry]) -> list[str]:
    below = [entry.uri.removeprefix(f"{warehouse.dataset(name)}/") for entry in entries]
    return sorted({path.partition("/")[0] for path in below if "/" in path})


def _removal_of(warehouse: Warehouse, name: str, owned: Mapping[str, list[Entry]]) -> Removal:
    """How a dataset, or a version of one that is not the latest, is removed.

    Raises:
        DatasetError: it is the latest.
    """
    named, _, version = name.partition("@")
    if not version:
        return holdings.removal_of_dataset(warehouse, named, "as asked", owned[named])
    pointer = datasets.latest(warehouse, named)
    if pointer is not None and datasets.version_of(warehouse, named, pointer) == version:
        raise DatasetError(f"{name} is the latest version, which stays: delete the dataset {named}, or ingest it anew")
    folder = warehouse.dataset(named, version)
    inside = [entry for entry in owned[named] if entry.uri.startswith(f"{folder}/")]
    return holdings.removal_of_version(warehouse, named, version, "as asked", inside)


def _needs(training: Training, dataset: str, version: str) -> bool:
    """Whether an unfinished training run is of a dataset, and of a version if one is named."""
    same = training.dataset == dataset and (not version or training.version in ("", version))
    return same and not training.complete


def _refusal(name: str, users: Sequence[str], under_way: Sequence[str]) -> str:
    refer = f"runs refer to dataset {name}: {_some(users)}" if users else f"dataset {name} is in use"
    also = f"; unfinished training runs need it: {_some(under_way)}" if under_way else ""
    first = "these runs with it (--with-runs)" if users else "them first"
    return f"{refer}{also}; delete {first}, or leave them behind (--force)"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _checkpoints(config: DeleteConfig, warehouse: Warehouse) -> Plan:
    owned = holdings.by_folder(warehouse, "checkpoints")
    names, notes = matched(config.kind, config.names, sorted(owned)) if config.names else (sorted(owned), [])
    if config.chooses or config.dataset:
        trained = [_trained(t) for t in holdings.trainings(warehouse, owned) if t.name in names]
        names = _chosen(config, trained)
    made = [holdings.removal_of_training(warehouse, name, "as asked", owned[name]) for name in names]
    if not config.force:
        _check_idle(made)
    records = runs.every(warehouse) if made else []
    for each in made:
        users = [record for record in records if holdings.takes_weights_of(record, each.name)]
        unfinished = [record.name for record in users if record.commit is None]
        if unfinished and not config.force:
            raise RunError(_needed(each.name, unfinished))
        notes += _predicted_with(each.name, users)
    return Plan(tuple(made), tuple(notes))


def _trained(training: Training) -> Candidate:
    model = ""  # the newest of a dataset are kept, of whichever model
    return Candidate(
        training.name, (training.dataset, model), _time_of(training.entries, "train.json"), training.complete
    )


def _needed(name: str, unfinished: Sequence[str]) -> str:
    return (
        f"checkpoint {name!r} holds the weights of unfinished runs: {_some(unfinished)}; finish or delete them first, or "
        "delete it with --force"
    )


def _predicted_with(name: str, users: Sequence[RunRecord]) -> list[str]:
    """A note if runs were predicted with a checkpoint."""
    if not users:
        return []
    return [
        f"runs were predicted with checkpoint {name!r}: {_some([record.name for record in users])}; they stay, but what is "
        "quarantined in them cannot be predicted again"
    ]
