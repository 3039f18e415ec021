"""JSON documents of a warehouse as frozen records, with one codec that explains what is wrong with a document."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from shardlens.pipeline import storage
from shardlens.pipeline.errors import StorageError
from shardlens.pipeline.warehouse.layout import NAME, RESTORE, parse_json, to_json

T = TypeVar("T")
INT64 = 1 << 63
JSON_TYPES: dict[Any, str] = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
Name = Annotated[str, NAME]
"""A text that stands in a path."""
Settings = Annotated[Mapping[str, Any], {"model": str | None, "task": str | None, "labels": tuple[str, ...]}]
"""Settings of a run; the types are those of the keys that lists, scores and SQL read."""
Report = Annotated[Mapping[str, Any], {"seconds": float | None, "images": int | None}]
"""Figures of an attempt: times, workers."""


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of a run."""

    name: Name
    rows: int
    bytes: int
    sha256: str
    blocks: str = ""
    """Checksums of its blocks, see `storage.checksums`; empty in parts of earlier versions."""
    complete: bool = False
    """Whether it has all columns of its table; not so in parts of earlier versions."""


@dataclass(frozen=True, slots=True)
class ShardParts:
    """What a finished shard published."""

    shard: int
    predictions: Part
    outcomes: Part
    quarantined: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts over all parts of a run."""

    images: int = 0
    predictions: int = 0
    quarantined: int = 0


@dataclass(frozen=True, slots=True)
class Commit:
    """commit.json: the parts that a run is made of."""

    parts: tuple[ShardParts, ...]
    totals: Totals
    fingerprint: str = ""
    report: Report = field(default_factory=dict)
    """Of the attempt that committed it."""


@dataclass(frozen=True, slots=True)
class RunDocument:
    """run.json: what a run was asked to do."""

    dataset: Name
    dataset_version: str
    settings: Settings
    shards: int
    origin: Mapping[str, Any]
    run: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class LatestDocument:
    """latest.json: which version of a dataset is the latest."""

    version: Name
    removed: Name | None = ""
    """File in its folder of the images that earlier versions had; None = there are none, empty = not written down."""


@dataclass(frozen=True, slots=True)
class SplitDocument:
    """How many images a split of a dataset has."""

    split: str | None
    images: int


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """An ingest that a dataset is made of."""

    asked: Mapping[str, Any]
    """The settings of `shardlens ingest`."""
    gave: tuple[str | None, ...]
    splits: tuple[str | None, ...]
    images: str | None
    annotations: str | None
    has_ids: bool
    has_category_ids: bool


@dataclass(frozen=True, slots=True)
class DatasetDocument:
    """dataset.json: what a version of a dataset holds, and where it came from."""

    images: int
    annotations: int
    splits: tuple[SplitDocument, ...]
    sources: tuple[SourceDocument, ...]


@dataclass(frozen=True, slots=True)
class TrainDocument:
    """What run.json of a training run, and train.json of a complete one, say to lists and SQL."""

    dataset: str
    dataset_version: str = ""
    settings: Settings = field(default_factory=dict)
    validations: tuple[Mapping[str, Any], ...] = ()
    report: Report = field(default_factory=dict)


def read(kind: type[T], uri: str) -> T:
    """Read the document of `uri` as a record.

    Raises:
        StorageError: it is missing, not JSON, or not such a record.
    """
    return parse(kind, uri, storage.read(uri))


def parse(kind: type[T], uri: str, data: bytes) -> T:
    """Turn the bytes that were read from `uri` into a record; fields that it does not know are left out.

    Raises:
        StorageError: they are not JSON, or not such a record.
    """
    return cast(T, _value(kind, uri, "", parse_json(uri, data)))


def decode(kind: type[T], uri: str, value: Any) -> T:
    """Turn a JSON value that stands in `uri` into a record.

    Raises:
        StorageError: it is no such record.
    """
    return cast(T, _value(kind, uri, "", value))


def encode(record: Any) -> bytes:
    """Serialize a record for people and for `parse`."""
    return to_json(asdict(record))


def _value(kind: Any, uri: str, place: str, value: Any) -> Any:
    """`value` as the type `kind`; `place` is where it stands in the document."""
    if kind is Any:
        return value
    if get_origin(kind) is Annotated:
        return _annotated(kind, uri, place, value)
    if get_origin(kind) in {Union, types.UnionType}:
        kinds = [each for each in get_args(kind) if each is not type(None)]
        return None if value is None else _value(kinds[0], uri, place, value)
    if is_dataclass(kind):
        return _record(cast(type[Any], kind), uri, place, _checked(dict, uri, place, value))
    if get_origin(kind) is tuple:
        items = _checked(list, uri, place, value)
        return tuple(_value(get_args(kind)[0], uri, f"{place}[{i}]", item) for i, item in enumerate(items))
    if get_origin(kind) is Mapping:
        each = get_args(kind)[1]
        items = _checked(dict, uri, place, value)
        return {key: _value(each, uri, _below(place, key), item) for key, item in items.items()}
    return _checked(kind, uri, place, value)


def _annotated(kind: Any, uri: str, place: str, value: Any) -> Any:
    """A text that matches the annotated pattern, or an object whose keys have the annotated types."""
    plain, constraint = get_args(kind)
    checked = _value(plain, uri, place, value)
    if isinstance(constraint, re.Pattern):
        if not constraint.fullmatch(checked):
            raise StorageError(
                f"{uri}: {place!r} is {checked[:80]!r}, expected a name ({constraint.pattern}): {RESTORE}"
            )
        return checked
    for key, each in constraint.items():
        if key in checked:
            _value(each, uri, _below(place, key), checked[key])
    return checked


def _record(kind: type[Any], uri: str, place: str, value: Mapping[str, Any]) -> Any:
    known = {}
    for name, hint, needed in _fields(cast(Any, kind)):
        if name in value:
            known[name] = _value(hint, uri, _below(place, name), value[name])
        elif needed:
            raise StorageError(f"{uri} has no field {_below(place, name)!r}: {RESTORE}")
    return kind(**known)


@cache
def _fields(kind: Any) -> list[tuple[str, Any, bool]]:
    """Name, type, and whether it must be there, of each field."""
    hints = get_type_hints(kind, include_extras=True)
    return [(f.name, hints[f.name], f.default is MISSING and f.default_factory is MISSING) for f in fields(kind)]


def _checked(kind: Any, uri: str, place: str, value: Any) -> Any:
    numbers = (int, float) if kind is float else kind
    if not isinstance(value, numbers) or (isinstance(value, bool) and kind is not bool):
        where = f"{uri}: {place!r} is" if place else f"{uri} holds"
        raise StorageError(f"{where} {JSON_TYPES[type(value)]}, expected {JSON_TYPES[kind]}: {RESTORE}")
    if kind is int and not 0 <= value < INT64:
        raise StorageError(f"{uri}: {place!r} is {str(value)[:40]}, expected 0 or more, in 63 bits: {RESTORE}")
    return value


def _below(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
