"""The tree of errors that Shardlens explains to its users, and their text for a terminal.

The root of the tree and the branch of the models stand in `shardlens.models.errors`.
"""

from __future__ import annotations

from shardlens.models.errors import ModelError, ShardlensError, WeightsError

__all__ = [
    "AccessDeniedError",
    "BucketNotFoundError",
    "ConfigError",
    "DatasetError",
    "ExecutionError",
    "ImageError",
    "LocationNotFoundError",
    "ModelError",
    "QueryError",
    "RunError",
    "ShardlensError",
    "StorageError",
    "StorageUnavailableError",
    "TrainingError",
    "WeightsError",
    "printable",
    "safe",
]


class ConfigError(ShardlensError):
    """A setting that cannot work, alone or with the others."""


class StorageError(ShardlensError):
    """A location that cannot be read or written."""


class LocationNotFoundError(StorageError):
    """An object, file, folder or bucket that is not there."""


class BucketNotFoundError(LocationNotFoundError):
    """A bucket that is not there, whatever was wanted in it."""


class AccessDeniedError(StorageError):
    """Credentials that are missing, wrong or not allowed to do this."""


class StorageUnavailableError(StorageError):
    """A store that kept failing after every retry: down, unreachable or full."""


class DatasetError(ShardlensError):
    """Images or annotations that cannot be imported as they are."""


class ImageError(ShardlensError):
    """One image that cannot be fetched, decoded or predicted; the others of its shard are predicted all the same."""


class RunError(ShardlensError):
    """A run that does not exist, is not complete, or was begun with other settings."""


class ExecutionError(ShardlensError):
    """Workers that cannot be had, or that die again and again."""


class TrainingError(ShardlensError):
    """A training that cannot go on: its loss or gradients are no finite numbers any more."""


class QueryError(ShardlensError):
    """SQL that is wrong, or that asks for what a query may not do."""


def printable(text: str) -> str:
    """Escape what is not printable, line breaks among it: a name in the data must not steer the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def safe(text: str) -> str:
    """Return lines for a terminal: what is not printable in them is escaped."""
    return "\n".join(map(printable, text.split("\n")))
