"""Ids of a COCO file, which COCO has as whole numbers and other tools as text: text ids get numbers of their own."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shardlens.pipeline.annotations.json_values import INT64, clean, number_in, whole

TEXT = -(1 << 62)
"""Text ids stand for the numbers from here downwards until all ids of a file are known."""
NO_ID = TEXT + 1
"""What stands for an id that is missing, or neither a whole number nor text."""

Ints = npt.NDArray[np.int64]


def unused(taken: Collection[int], count: int) -> list[int]:
    """Return `count` ids that are not in `taken`: those after the largest, or the smallest free ones where it is too large."""
    first = max(taken, default=0) + 1
    if first + count < INT64:
        return list(range(first, first + count))
    known = set(taken)
    return list(itertools.islice((number for number in itertools.count(1) if number not in known), count))


@dataclass
class Ids:
    """The ids of one kind, of images or categories, as they are read."""

    texts: dict[str, int] = field(default_factory=dict)
    """Text -> the number that stands for it until `settle`."""

    def read(self, value: object) -> int:
        """Return the number of an id, or what stands for it."""
        number = whole(value)
        if number is not None:
            return max(number, NO_ID)  # smaller ones would be taken for what stands for text
        return self.texts.setdefault(clean(value), TEXT - len(self.texts)) if isinstance(value, str) else NO_ID

    def settle(self, declared: Sequence[int]) -> list[int]:
        """Give each of the file's own ids its number; text that is a whole number keeps it where that is free."""
        names = {number: text for text, number in self.texts.items()}
        used = {number for number in declared if number > NO_ID}
        new: dict[int, int] = {}
        for number in declared:
            plain = number_in(names[number]) if number <= TEXT and number not in new else None
            if plain is not None and plain not in used:
                new[number] = plain
                used.add(plain)
        left = list(dict.fromkeys(number for number in declared if number <= TEXT and number not in new))
        fresh = unused(used, len(left) + sum(number == NO_ID for number in declared))
        new |= dict(zip(left, fresh, strict=False))
        without = iter(fresh[len(left) :])
        self._settled = {**{text: new[number] for text, number in self.texts.items() if number in new}}
        self._known = used
        return [next(without) if number == NO_ID else new.get(number, number) for number in declared]

    def refer(self, ids: Ints) -> Ints:
        """Exchange what stands for text in references to the settled ids; text that is no such id stays."""
        if not self.texts:
            return ids
        settled = dict(self._settled)
        for text in self.texts.keys() - settled.keys():
            plain = number_in(text)
            if plain in self._known and plain is not None:
                settled[text] = plain
        new = {self.texts[text]: number for text, number in settled.items()}
        made = ids.copy()
        rows = np.flatnonzero(ids <= TEXT)
        made[rows] = [new.get(number, number) for number in ids[rows].tolist()]
        return made

    def text(self, number: int) -> str:
        """How a reference was written, for messages."""
        names = {stands: text for text, stands in self.texts.items()} if number <= TEXT else {}
        return "(none)" if number == NO_ID else names.get(number, str(number))


def own_ids(ids: Ints, texts: Iterable[str | None]) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Give each annotation an id of its own: the first of a number keeps it, text that is a free whole number becomes it.

    Returns:
        The ids, and which of the numbers were given twice.
    """
    ids = ids.copy()
    rows = np.flatnonzero(ids == NO_ID)
    if len(rows):
        known = set(ids.tolist())
        for row, text in ((row, text) for row, text in enumerate(texts) if text is not None):
            plain = number_in(text)
            if plain is not None and plain not in known:
                ids[row] = plain
                known.add(plain)
    _, first = np.unique(ids, return_index=True)
    again = np.ones(len(ids), dtype=bool)
    again[first] = False
    new = again | (ids == NO_ID)
    if new.any():
        twice = again & (ids != NO_ID)
        ids[new] = unused(ids[~new].tolist(), int(new.sum()))
        return ids, twice
    return ids, again
