"""Files whose names are written in another way: other slashes, case, escapes or folders than in the annotation file."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

Key = tuple[str, ...]


def key(name: str) -> Key:
    """The parts of a path in one spelling: forward slashes, escapes decoded, NFC, one case."""
    plain = unquote(name).replace("\\", "/")
    parts = unicodedata.normalize("NFC", plain).casefold().split("/")
    return tuple(part.strip() for part in parts if part.strip() not in {"", "."})


def matches(wanted: Sequence[str], files: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """Find the one file that each wanted name could mean.

    Two names mean the same where they differ in spelling (see `key`), or where one of them has folders in front that
    the other lacks. A name that could mean two files, and a file that two names could mean, match nothing.

    Args:
        wanted: names that no file has.
        files: names of the files that are there.
        taken: names of files that are listed as they are written, and so are no match for another name.
    """
    used = set(taken)
    by_last: dict[str, list[tuple[Key, str]]] = {}
    for file in files:
        parts = key(file)
        if file not in used and parts:
            by_last.setdefault(parts[-1], []).append((parts, file))
    hits = {name: hit for name in dict.fromkeys(wanted) if (hit := _only(key(name), by_last)) is not None}
    claims = Counter(hits.values())
    return {name: file for name, file in hits.items() if claims[file] == 1}


def _only(parts: Key, by_last: dict[str, list[tuple[Key, str]]]) -> str | None:
    if not parts:
        return None
    near = by_last.get(parts[-1], [])
    same = [file for other, file in near if other == parts]
    ends = [file for other, file in near if other[-len(parts) :] == parts or parts[-len(other) :] == other]
    candidates = same or ends
    return candidates[0] if len(candidates) == 1 else None
