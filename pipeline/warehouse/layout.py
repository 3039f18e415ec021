"""Where everything lies under one root URI: datasets, predictions, outcomes, metrics, runs, checkpoints, reports."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError, StorageError, printable

MARK = {"format": "shardlens-warehouse", "version": 1}
RESTORE = "it is damaged or was not written by Shardlens; restore it, or delete its folder and make it again"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")


WarehouseRoot = Annotated[str, Parameter(env_var="SHARDLENS_WAREHOUSE", help="Root of the tables.")]
"""The root's URI as a setting: --warehouse, else the environment's SHARDLENS_WAREHOUSE, else ./warehouse."""


def check_name(name: str, what: str) -> str:
    """Return `name` if it can name a `what` in a path and in SQL.

    Raises:
        ConfigError: it holds something other than letters, digits and . _ + -, or is too long.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{what} {name!r} cannot be used as a name: expected 1 to 128 of A-Z a-z 0-9 . _ + -, a letter or digit first"
        )
    return name


@dataclass(frozen=True)
class Warehouse:
    """The root of the tables; its methods only name places."""

    root: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", storage.normalize(self.root))

    def path(self, *parts: str) -> str:
        """Join `parts` below the root."""
        return storage.join(self.root, *parts)

    def dataset(self, name: str, version: str | None = None) -> str:
        """Folder of a dataset, or of one of its versions."""
        parts = ("datasets", check_name(name, "dataset"))
        return self.path(*parts, check_name(version, "dataset version")) if version else self.path(*parts)

    def run(self, run: str) -> str:
        """Folder of a run's record and commit."""
        return self.path("runs", check_name(run, "run"))

    def predictions(self, dataset: str, run: str) -> str:
        """Folder of a run's prediction parts."""
        return self.path("predictions", f"dataset={dataset}", f"run={run}")

    def outcomes(self, dataset: str, run: str) -> str:
        """Folder of a run's outcome parts."""
        return self.path("outcomes", f"dataset={dataset}", f"run={run}")

    def metrics(self, dataset: str, run: str) -> str:
        """Folder of a run's metric tables."""
        return self.path("metrics", f"dataset={dataset}", f"run={run}")

    def curves(self, dataset: str, run: str) -> str:
        """Folder of a run's precision-recall curves."""
        return self.path("curves", f"dataset={dataset}", f"run={run}")

    def partials(self, dataset: str, run: str) -> str:
        """Folder of the mergeable statistics that a run's scores are made of."""
        return self.path("partials", f"dataset={dataset}", f"run={run}")

    def checkpoints(self, run: str) -> str:
        """Folder of a training run's checkpoints."""
        return self.path("checkpoints", check_name(run, "run"))

    def create(self) -> None:
        """Mark the root as a warehouse; it may be one already.

        Raises:
            StorageError: the root holds something else.
        """
        mark = self.path("warehouse.json")
        if storage.exists(mark):
            self.check()
            return
        foreign = [printable(name) for name in storage.children(self.root)[:3]]
        if foreign:
            raise StorageError(
                f"{self.root} is not a warehouse and is not empty (it holds {', '.join(foreign)}): "
                "name an empty or new place with --warehouse"
            )
        storage.create(mark, json.dumps(MARK).encode())

    def check(self) -> None:
        """Make sure that the root is a warehouse that this version can read.

        Raises:
            StorageError: it is not one.
        """
        mark = self.path("warehouse.json")
        if not storage.exists(mark):
            storage.children(self.root)  # says so if the bucket itself is not there
            raise StorageError(
                f"{self.root} is not a warehouse (no warehouse.json there): "
                "run 'shardlens ingest' first, or name another place with --warehouse or SHARDLENS_WAREHOUSE"
            )
        there = read_json(mark)
        if there != MARK:
            raise StorageError(
                f"{mark} holds {json.dumps(there)[:200]}, expected {json.dumps(MARK)}: it was written by a newer version "
                "of Shardlens, or by another program; update Shardlens, or name another place with --warehouse"
            )


def read_json(uri: str) -> Any:
    """Read a JSON document.

    Raises:
        StorageError: it is missing or not JSON.
    """
    return parse_json(uri, storage.read(uri))


def parse_json(uri: str, data: bytes) -> Any:
    """Parse the JSON document that was read from `uri`.

    Raises:
        StorageError: it is not JSON.
    """
    try:
        document = json.loads(data)
        if b"\\ud" in data.lower():  # an escaped surrogate, which only as one of a pair stands for a character
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{uri} is not JSON ({error}): {RESTORE}") from None
    return document


def to_json(document: Any) -> bytes:
    """Serialize `document` for people: sorted keys, indented, one newline at the end."""
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()
