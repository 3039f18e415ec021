"""Values of JSON files as people write them: numbers, flags, ids and texts; what is wrong is named by type and beginning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from shardlens.pipeline.errors import DatasetError

INT64 = 1 << 63
FALSE = {"", "0", "0.0", "false", "no", "none", "null"}
TRUE = {"1", "1.0", "true", "yes"}


def brief(value: object) -> str:
    """Type and beginning of a value, for a message."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def required(item: Any, key: str, spot: str) -> Any:
    """The value of a key that must be there; `spot` says where for the `DatasetError`."""
    if not isinstance(item, Mapping):
        raise DatasetError(f"{spot} is {brief(item)}, expected an object")
    if key not in item:
        raise DatasetError(f"{spot} has no key {key!r}; its keys are {', '.join(map(str, item)) or 'none'}")
    return item[key]


def whole(value: object) -> int | None:
    """A whole number that an int64 holds, also one written as 1.0; None for anything else."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        return int(value)
    return value if type(value) is int and -INT64 <= value < INT64 else None


def integer(item: Mapping[str, Any], key: str, spot: str) -> int:
    """The whole number of a key, else a `DatasetError`."""
    value = required(item, key, spot)
    number = whole(value)
    if number is None:
        raise DatasetError(f"{spot}: {key} is {brief(value)}, expected a whole number")
    return number


def side(value: object) -> int | None:
    """Pixels of a width or height; None for anything else."""
    number = whole(value)
    return number if number is not None and 0 < number < 1 << 31 else None


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a JSON number that a float64 can hold."""
    return type(value) is float or (type(value) is int and abs(value) < INT64)


def are_numbers(values: list[Any]) -> bool:
    """Whether each of `values` is a number."""
    return set(map(type, values)) == {float} or all(map(is_number, values))


def flag(value: object) -> bool | None:
    """A yes or no written as a boolean, a number, their text, or null (no); None for anything else."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if is_number(value):
        return value != 0
    text = value.strip().lower() if isinstance(value, str) else "?"
    return True if text in TRUE else False if text in FALSE else None


def clean(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON can write and no table can hold, by U+FFFD."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def number_in(text: str) -> int | None:
    """The whole number that `text` is written as, in the one usual way; None if it is none."""
    plain = text.isascii() and text.isdecimal() and len(text) < 19 and (text == "0" or text[0] != "0")
    return int(text) if plain else None
