"""What can be wrong with a dataset: its kinds, their counts with examples, and the flags that rows carry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline.errors import printable

EXAMPLES = 5

KINDS = {
    "outside-root": "a file_name that leads out of the images' root; refused",
    "link-out": "a symbolic link out of the images' root; not followed without --follow-links",
    "locked-folder": "a folder that may not be listed; left out",
    "undecodable-name": "a file name that is not UTF-8; rename the file",
    "damaged-tar": "a tar that is cut off or damaged; the files before the damage are taken in",
    "compressed-tar": "a compressed tar, whose files cannot be read in place; left out, unpack it to a plain .tar",
    "sparse-file": "a sparse file in a tar, whose bytes do not lie there in one piece; left out, make the tar without --sparse",
    "loose-image": "an image next to the tars that are taken in; left out",
    "repeated-member": "an image that several tars hold under the same name; the first is taken",
    "matched-name": "a file_name that only one file could mean, spelled in another way; taken (--match-names)",
    "missing-image": "no such image; kept",
    "no-images": "not one image is there; results made elsewhere can be imported and scored, predict and train refuse",
    "unreadable-image": "no header of an image could be read; kept without a size",
    "damaged-image": "the header of an image could be read, its pixels not; kept, predict will quarantine it",
    "size-mismatch": "the annotations tell another size than the image's header, which counts",
    "duplicate-image-id": "an image id given twice; the later image is kept under a new id",
    "repeated-image": "an image listed twice with the same id and file_name; the later entry is left out",
    "duplicate-file-name": "a file_name given twice; both are kept",
    "image-without-annotation": "no annotation file for the image; kept, not scored or trained on by default",
    "shared-annotation": "an annotation file for several images of the same name but for the suffix",
    "annotation-without-image": "an annotation file whose image is not there; left out",
    "annotation-of-another-image": "the annotation file names another image; kept",
    "unreadable-annotation": "the image's annotation file is damaged; the image is kept, not scored or trained on by default",
    "interpolated-mask": "a mask with values as resizing or JPEG make them between two classes; taken in as it is",
    "mixed-masks": "masks of 8 and of 16 bits in one dataset; all are taken for object ids",
    "duplicate-image": "an image with the same bytes as an earlier one; kept",
    "split-leak": "an image whose bytes are in another split, too; kept",
    "not-in-list": "a line of the list that names no image; left out",
    "unreadable-entry": "an entry of the annotation file that cannot be used; left out",
    "unreadable-id": "an id that is neither a whole number nor text; kept under a new id",
    "unnamed-category": "a category without a name; kept under its id",
    "duplicate-category-name": "a name of several categories; all are kept, but labels and results cannot mean one by name",
    "in-two-splits": "an image listed in two splits; it counts for the first",
    "unknown-image": "an annotation of an image that is not listed (or was refused); left out",
    "duplicate-annotation-id": "an annotation id given twice; the later annotation is kept under a new id",
    "unknown-category": "a category that is not listed; kept without category id, not scored",
    "unreadable-box": "a box without four numbers; kept without a box",
    "unreadable-flag": "an iscrowd or ignore that is neither 0 nor 1; taken for 0",
    "unreadable-area": "an area that is no number; that of the mask or box is taken",
    "degenerate-box": "a box without width or height; kept",
    "box-outside-image": "a box that reaches out of its image; kept",
    "bad-polygon": "a polygon that cannot be drawn; the mask is that of its other polygons",
    "bad-mask": "a mask that cannot be drawn; kept without it",
    "mask-of-another-size": "a mask whose size is not its image's; kept, the image is not scored or trained on by default",
    "unlisted-image": "an image that the annotations do not list; left out, unless --unlisted keep adds it without annotations",
}
"""Kind of problem -> what it is and what becomes of the row; the order of every report."""


@dataclass(frozen=True)
class Problem:
    """All findings of one kind."""

    kind: str
    """One of `KINDS`."""
    count: int
    """How many rows or files."""
    examples: tuple[str, ...]
    """The first few, in words."""

    def __str__(self) -> str:
        more = f"\n    ... and {self.count - len(self.examples)} more" if self.count > len(self.examples) else ""
        lines = "".join(f"\n    {printable(example)}" for example in self.examples)
        return f"{self.kind}: {self.count} ({KINDS[self.kind]}){lines}{more}"


@dataclass
class Problems:
    """Collects findings by kind; of each kind it counts all and keeps the first few in words."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What was decided about the data and is no problem, a sentence each."""

    def add(self, kind: str, count: int, examples: Iterable[str]) -> None:
        """Count `count` findings of `kind`; no more of `examples` is asked for than will be kept."""
        if kind not in KINDS:
            raise ValueError(f"problem kind {kind!r}: expected one of {', '.join(KINDS)}")
        if count == 0:
            return
        self.counts[kind] = self.counts.get(kind, 0) + count
        kept = self.examples.setdefault(kind, [])
        wanted = iter(examples)
        while len(kept) < EXAMPLES and (example := next(wanted, None)) is not None:
            kept.append(example)

    def note(self, sentence: str) -> None:
        """Keep what was decided about the data, for the report."""
        self.notes.append(sentence)

    def one(self, kind: str, example: str) -> None:
        """Count one finding."""
        self.add(kind, 1, (example,))

    def found(self) -> tuple[Problem, ...]:
        """All findings so far, in the order of `KINDS`."""
        return tuple(Problem(k, self.counts[k], tuple(self.examples[k])) for k in KINDS if k in self.counts)


class Flags:
    """The flags of a table's rows while they are found: a column of lists of kinds, held as one mask per kind."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._rows = len(column)
        self._masks: dict[str, npt.NDArray[np.bool_]] = {}
        whole = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        kinds, rows = pc.list_flatten(whole).to_numpy(zero_copy_only=False), pc.list_parent_indices(whole).to_numpy()
        for kind in sorted(set(kinds)):
            self._mask(kind)[rows[kinds == kind]] = True

    def _mask(self, kind: str) -> npt.NDArray[np.bool_]:
        return self._masks.setdefault(kind, np.zeros(self._rows, dtype=bool))

    def rows(self, kind: str) -> npt.NDArray[np.intp]:
        """Numbers of the rows that carry the flag `kind`."""
        return np.flatnonzero(self._masks[kind]) if kind in self._masks else np.zeros(0, np.intp)

    def mark(self, kind: str, rows: npt.NDArray[Any]) -> None:
        """Set the flag `kind` on `rows` (a mask or row numbers)."""
        if len(rows):
            self._mask(kind)[rows] = True

    def report(self, kind: str, rows: npt.NDArray[Any], problems: Problems, describe: Callable[[int], str]) -> None:
        """Set the flag and count the rows as problems, each described by `describe(row number)`."""
        numbers = np.flatnonzero(rows) if rows.dtype == bool else rows
        self.mark(kind, numbers)
        problems.add(kind, len(numbers), (describe(int(number)) for number in numbers))

    def column(self) -> pa.ListArray:
        """The flags as a column, each row's kinds in the order of `KINDS`."""
        kinds = [kind for kind in KINDS if kind in self._masks and self._masks[kind].any()]
        grid = np.stack([self._masks[kind] for kind in kinds], axis=1) if kinds else np.zeros((self._rows, 0), bool)
        offsets = np.concatenate([[0], np.cumsum(grid.sum(axis=1))]).astype(np.int32)
        names = pa.array(kinds, pa.string()).take(pa.array(np.nonzero(grid)[1], pa.int64()))
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), names)
