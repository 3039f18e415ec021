"""Images with the same bytes, within one ingest and across the splits of a dataset.

The header that an ingest reads of each image is digested; of images that agree there and are longer, all bytes are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline import storage
from shardlens.pipeline.annotations.digests import DIGESTS, spots_of
from shardlens.pipeline.annotations.inspection import Inspected
from shardlens.pipeline.annotations.places import Place
from shardlens.pipeline.annotations.problems import Problems
from shardlens.pipeline.executors.base import Done, Executor
from shardlens.pipeline.warehouse import tables

BATCH = 32


@dataclass(frozen=True)
class DigestImages:
    """The stage that digests all bytes of images; its items are tuples of places."""

    def setup(self) -> Callable[[tuple[Place, ...]], tuple[bytes | None, ...]]:
        """Nothing is loaded."""
        return _digests


def _digests(places: tuple[Place, ...]) -> tuple[bytes | None, ...]:
    read = storage.read_many(places)
    return tuple(hashlib.sha256(data).digest() if isinstance(data, bytes) else None for data in read)


def digest_table(images: pa.Table, inspected: Sequence[Inspected]) -> pa.Table:
    """The digests of an ingest's images, rows of `digests.DIGESTS`.

    Args:
        images: the images in the order in which they were inspected, with `uri` and `offset`.
    """
    headers = [header for batch in inspected for header in batch.headers]
    columns = {
        **{name: images[name] for name in ("uri", "offset", "bytes", "etag")},
        "head": pa.array([head for batch in inspected for head in batch.heads], pa.binary()),
    }
    for name in ("width", "height", "orientation", "deep"):
        values = [None if header is None else getattr(header, name) for header in headers]
        columns[name] = pa.array(values, DIGESTS.field(name).type)
    return pa.table([columns[name] for name in DIGESTS.names], schema=DIGESTS)


def latest_digests(parts: Sequence[pa.Table]) -> pa.Table:
    """All digests, each image's that of the last of `parts` that has it; sorted by place."""
    every = pa.concat_tables([tables.completed(table, DIGESTS).cast(DIGESTS) for table in reversed(parts)])
    spots = spots_of(every)
    first = pc.equal(pc.index_in(spots, value_set=spots), pa.array(np.arange(len(spots)), pa.int32()))
    return every.filter(first).sort_by([("uri", "ascending"), ("offset", "ascending")]).combine_chunks()


@dataclass(frozen=True)
class Twins:
    """Groups of images with the same bytes."""

    groups: list[list[int]]
    """Rows of the images table."""

    @classmethod
    def among(cls, images: pa.Table, digests: pa.Table, executor: Executor) -> Twins:
        """Find the groups among `images`; those that `digests` does not have are no one's twin."""
        columns = zip(*(digests[name].to_pylist() for name in ("uri", "offset", "head")), strict=True)
        heads = {(uri, offset): head for uri, offset, head in columns if head is not None}
        rows = zip(*(images[name].to_pylist() for name in ("uri", "offset", "length")), strict=True)
        alike: dict[bytes, list[tuple[int, Place]]] = {}
        for row, (uri, offset, length) in enumerate(rows):
            if (uri, offset) in heads:
                alike.setdefault(heads[uri, offset], []).append((row, (uri, offset, length)))
        candidates = [group for group in alike.values() if len({place for _, place in group}) > 1]
        return cls([group for group in _confirmed(candidates, executor) if len(group) > 1])

    def report(self, names: Sequence[str], problems: Problems) -> None:
        """Report the later images of every group."""
        later = [(group[0], row) for group in self.groups for row in group[1:]]
        problems.add("duplicate-image", len(later), (f"{names[row]} is {names[first]}" for first, row in later))

    def report_leaks(self, names: Sequence[str], splits: Sequence[str | None], problems: Problems) -> None:
        """Report the images of groups that lie in several splits."""
        for group in self.groups:
            held = {split: row for row in reversed(group) if (split := splits[row]) is not None}
            if len(held) > 1:
                problems.one(
                    "split-leak", " is ".join(f"{names[row]} of {split}" for split, row in sorted(held.items()))
                )


def _confirmed(candidates: Iterable[Sequence[tuple[int, Place]]], executor: Executor) -> Iterator[list[int]]:
    """Rows of each group that agrees in all bytes."""
    members = [(row, place) for group in candidates for row, place in group]
    batches = [tuple(place for _, place in members[i : i + BATCH]) for i in range(0, len(members), BATCH)]
    known: dict[Place, bytes | None] = {}
    for result in executor.map(DigestImages(), batches) if batches else ():
        if isinstance(result, Done):
            known.update(zip(result.item, result.value, strict=True))
    by_digest: dict[bytes, list[int]] = {}
    for row, place in members:
        digest = known.get(place)
        if digest is not None:
            by_digest.setdefault(digest, []).append(row)
    return iter(by_digest.values())
