"""Darknet's .cfg: sections of `key=value` lines that name a network's layers in order.

https://github.com/AlexeyAB/darknet/wiki/CFG-Parameters-in-the-different-layers
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from shardlens.models.errors import ModelError

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """The value of a key, as written."""

    text: str
    line: int


@dataclass(frozen=True)
class Section:
    """`[kind]` and the keys below it."""

    kind: str
    line: int
    entries: Mapping[str, Entry]

    def error(self, reason: str, key: str | None = None) -> ModelError:
        """An error that says where in the file it is."""
        line = self.line if key is None or key not in self.entries else self.entries[key].line
        return ModelError(f"cfg line {line}, [{self.kind}]: {reason}")

    def text(self, key: str, default: str) -> str:
        """The value of `key`, or the default that Darknet has for it."""
        return self.entries[key].text if key in self.entries else default

    def integer(self, key: str, default: int, least: int | None = None) -> int:
        """A whole number, at least `least`."""
        value = self._parsed(key, default, int, "a whole number")
        if least is not None and value < least:
            raise self.error(f"{key}={value}, expected at least {least}", key)
        return value

    def number(self, key: str, default: float) -> float:
        """A number."""
        return self._parsed(key, default, _finite, "a number")

    def integers(self, key: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Whole numbers between commas."""
        return self._parsed(key, default, _list_of(int), "whole numbers between commas")

    def numbers(self, key: str) -> tuple[float, ...]:
        """Numbers between commas."""
        return self._parsed(key, (), _list_of(_finite), "numbers between commas")

    def refuse(self, *keys: str) -> None:
        """Refuse settings that would change the result and that this reader does not have."""
        for key in keys:
            if self.text(key, "0") not in {"0", "none"}:
                raise self.error(f"{key}={self.text(key, '')} is not supported; remove it or set it to 0", key)

    def _parsed(self, key: str, default: T, parse: Callable[[str], T], expected: str) -> T:
        if key not in self.entries:
            return default
        try:
            return parse(self.entries[key].text)
        except ValueError as error:
            raise self.error(f"{key}={self.entries[key].text}, expected {expected}", key) from error


def parse(cfg: str) -> list[Section]:
    """The sections in `cfg`, in order. Of a key that stands twice in a section the first counts, as in Darknet."""
    sections: list[Section] = []
    entries: dict[str, Entry] = {}
    for number, raw in enumerate(cfg.splitlines(), start=1):
        line = "".join(raw.partition("#")[0].split())
        if not line or line[0] == ";":
            continue
        if line[0] == "[" and line[-1] == "]":
            entries = {}
            sections.append(Section(line[1:-1].lower(), number, entries))
            continue
        key, equals, value = line.partition("=")
        if not (sections and key and equals):
            raise ModelError(f"cfg line {number}: found {raw.strip()[:60]!r}, expected [section] or key=value")
        entries.setdefault(key, Entry(value, number))
    if not sections or sections[0].kind not in {"net", "network"}:
        found = f"[{sections[0].kind}] at line {sections[0].line}" if sections else "no section at all"
        raise ModelError(f"cfg: found {found}, expected [net] first; is it a Darknet .cfg?")
    return sections


def section(kind: str, **values: object) -> Section:
    """A section made here: a sequence's items stand between commas, as in the file."""
    return Section(kind, 0, {key: Entry(_written(value), 0) for key, value in values.items()})


def render(sections: Iterable[Section]) -> str:
    """The .cfg that `parse` reads back to these sections."""
    lines = ([f"[{s.kind}]", *(f"{key}={entry.text}" for key, entry in s.entries.items()), ""] for s in sections)
    return "\n".join(line for block in lines for line in block)


def exchange(cfg: str, values: Mapping[str, str]) -> str:
    """The .cfg with these values in all sections that have such keys."""
    given = {key: Entry(value, 0) for key, value in values.items()}
    sections = parse(cfg)
    return render(
        replace(s, entries={key: given.get(key, entry) for key, entry in s.entries.items()}) for s in sections
    )


def _written(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _list_of(parse_one: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    return lambda text: tuple(parse_one(item) for item in text.split(",") if item)
