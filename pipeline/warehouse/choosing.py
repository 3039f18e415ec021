"""Which of many runs are meant: by names and patterns, by age, and by how many are to stay."""

from __future__ import annotations

import difflib
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Candidate:
    """What age and number choose among."""

    name: str
    group: tuple[str, str]
    """Dataset and model: of each group the newest are kept."""
    written: float
    """When it was completed, in seconds since 1970; 0 where that is not known."""
    complete: bool


def chosen(candidates: Sequence[Candidate], older_s: float, keep: int) -> list[str]:
    """Names of the complete candidates that are older than `older_s` seconds and not among the newest `keep` of their group."""
    groups: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for each in sorted(candidates, key=lambda each: (each.written, each.name), reverse=True):
        if each.complete:
            groups[each.group].append(each)
    oldest = time.time() - older_s
    return sorted(each.name for group in groups.values() for each in group[keep:] if 0 < each.written <= oldest)


def is_pattern(name: str) -> bool:
    """Whether a name stands for all that match it."""
    return bool(set("*?[") & set(name))


def matched(kind: str, names: Sequence[str], known: Sequence[str]) -> tuple[list[str], list[str]]:
    """The known names that `names` and patterns mean, sorted, and a note for each that means none."""
    meant: set[str] = set()
    notes = []
    for given in names:
        matches = {name for name in known if (fnmatchcase(name, given) if is_pattern(given) else name == given)}
        if not matches:
            near = difflib.get_close_matches(given, known, 3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            notes.append(f"there is no {kind} {given!r}: nothing to delete{hint}")
        meant |= matches
    return sorted(meant), notes
