"""The wide part of an ingest: every image's header is read for its size, and its own annotation file is parsed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from shardlens.pipeline import storage
from shardlens.pipeline.annotations.places import Place
from shardlens.pipeline.annotations.source import RowBuffer, Sidecar, Source
from shardlens.pipeline.errors import (
    DatasetError,
    ImageError,
    LocationNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from shardlens.pipeline.executors.base import Done, Executor, Lost, Progress, ProgressListener
from shardlens.pipeline.images.header import probe
from shardlens.pipeline.warehouse import tables

HEADER = 1 << 16
"""Bytes read of an image at first; where its header is longer the whole image is read."""
BATCH = 128

Fault = tuple[int, str, str]
"""Row of the image, kind of problem, in words."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Neighboring rows of the listed images; what travels to a worker."""

    first: int
    """Row of the first image."""
    file_names: tuple[str, ...]
    images: tuple[Place, ...]
    sidecars: tuple[Place | None, ...]

    def single(self, index: int) -> Batch:
        """The batch of one of its images alone."""
        one = slice(index, index + 1)
        return Batch(self.first + index, self.file_names[one], self.images[one], self.sidecars[one])


@dataclass(frozen=True)
class Inspected:
    """What was found out about the images of a batch."""

    first: int
    sizes: tuple[tuple[int, int] | None, ...]
    """(width, height) from the header; None = could not be read."""
    told: tuple[tuple[int, int] | None, ...]
    """(width, height) as the image's annotation file tells it."""
    annotations: pa.Table
    """Rows of `tables.ANNOTATIONS`; image_id is the image's row."""
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class Inspect:
    """The stage: `Batch` -> `Inspected`."""

    sidecar: Sidecar | None = None

    def setup(self) -> Callable[[Batch], Inspected]:
        """Nothing is loaded."""
        return self.run

    def run(self, batch: Batch) -> Inspected:
        """Read the headers and the annotation files of `batch`, many at once.

        Raises:
            StorageUnavailableError: the store failed after every retry.
        """
        faults: list[Fault] = []
        sizes = _sizes(batch, faults)
        rows = RowBuffer(tables.ANNOTATIONS)
        told = _parse(self.sidecar, batch, rows, faults) if self.sidecar else (None,) * len(sizes)
        faults.sort(key=lambda fault: fault[0])
        return Inspected(batch.first, sizes, told, rows.table(), tuple(faults))


def _read(places: list[Place]) -> list[bytes | StorageError]:
    found = storage.read_many(places)
    for data in found:
        if isinstance(data, StorageUnavailableError):
            raise data
    return found


def _head(place: Place) -> Place:
    uri, offset, length = place
    return uri, offset or 0, HEADER if length is None else min(length, HEADER)


def _sizes(batch: Batch, faults: list[Fault]) -> tuple[tuple[int, int] | None, ...]:
    """Sizes from the first bytes of each image, or from the whole of it where those do not suffice."""
    heads = _read([_head(place) for place in batch.images])
    sizes = [_probed(data) for data in heads]
    missing = {i for i, data in enumerate(heads) if isinstance(data, LocationNotFoundError)}
    again = [i for i, size in enumerate(sizes) if size is None and i not in missing]
    for i, data in zip(again, _read([batch.images[i] for i in again]), strict=True):
        try:
            if isinstance(data, StorageError):
                raise data
            sizes[i] = probe(data)
        except (ImageError, StorageError) as error:
            faults.append((batch.first + i, "unreadable-image", f"{batch.file_names[i]}: {error}"))
    faults.extend(
        (batch.first + i, "missing-image", f"{batch.file_names[i]}: nothing at {batch.images[i][0]}") for i in missing
    )
    return tuple(sizes)


def _probed(data: bytes | StorageError) -> tuple[int, int] | None:
    if isinstance(data, StorageError):
        return None
    try:
        return probe(data)
    except ImageError:
        return None


def _parse(sidecar: Sidecar, batch: Batch, rows: RowBuffer, faults: list[Fault]) -> tuple[tuple[int, int] | None, ...]:
    """Parse the annotation file of each image that has one, into `rows`."""
    told: list[tuple[int, int] | None] = [None] * len(batch.images)
    having = [(i, place) for i, place in enumerate(batch.sidecars) if place is not None]
    for (i, (uri, _, _)), data in zip(having, _read([place for _, place in having]), strict=True):
        row, name = batch.first + i, batch.file_names[i]
        try:
            if isinstance(data, StorageError):
                raise data
            parsed = sidecar(data, uri, name)
        except (DatasetError, ImageError, StorageError) as error:
            faults.append((row, "unreadable-annotation", f"{name}: {error}"))
            continue
        told[i] = parsed.size
        faults.extend((row, kind, text) for kind, text in parsed.problems)
        for annotation in parsed.rows:
            rows.add({**annotation, "image_id": row})
    return tuple(told)


def batches(images: pa.Table) -> Iterator[Batch]:
    """Cut the listed images into batches, made when asked for."""
    for first in range(0, images.num_rows, BATCH):
        rows = images.slice(first, BATCH).to_pydict()
        places = tuple(zip(rows["uri"], rows["offset"], rows["length"], strict=True))
        found = zip(rows["sidecar_uri"], rows["sidecar_offset"], rows["sidecar_length"], strict=True)
        sidecars = tuple(None if uri is None else (uri, offset, length) for uri, offset, length in found)
        yield Batch(first, tuple(rows["file_name"]), places, sidecars)


def inspect(source: Source, executor: Executor, progress: ProgressListener) -> list[Inspected]:
    """Inspect all images of `source`; the results come in the order of its rows, whoever was ready first.

    Images whose header kills the worker that reads it are found by trying them one by one.
    """
    total, done = source.images.num_rows, 0
    results: list[Inspected] = []
    lost: list[Batch] = []
    progress(Progress("ingest", done, total))
    for result in executor.map(Inspect(source.sidecar), batches(source.images)):
        if isinstance(result, Done):
            results.append(result.value)
            done += len(result.value.sizes)
            progress(Progress("ingest", done, total))
        else:
            lost.append(result.item)
    singles = [batch.single(i) for batch in lost for i in range(len(batch.images))]
    for result in executor.map(Inspect(source.sidecar), singles, attempts=1) if singles else ():
        results.append(result.value if isinstance(result, Done) else _given_up(result))
    return sorted(results, key=lambda found: found.first)


def _given_up(lost: Lost[Batch]) -> Inspected:
    batch = lost.item
    fault = (
        batch.first,
        "unreadable-image",
        f"{batch.file_names[0]}: reading its header ended the worker ({lost.reason})",
    )
    return Inspected(batch.first, (None,), (None,), tables.from_rows([], tables.ANNOTATIONS), (fault,))
