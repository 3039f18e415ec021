"""The wide part of an ingest: every image's header is read for its size, and its own annotation file is parsed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shardlens.pipeline import storage
from shardlens.pipeline.annotations.places import Place
from shardlens.pipeline.annotations.source import RowBuffer, Sidecar, Source
from shardlens.pipeline.annotations.unchanged import Unchanged
from shardlens.pipeline.errors import (
    DatasetError,
    ImageError,
    LocationNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from shardlens.pipeline.executors.base import Done, Executor, Lost, Progress, ProgressListener
from shardlens.pipeline.images import png
from shardlens.pipeline.images.fetch import Decoding, load
from shardlens.pipeline.images.file_warnings import FILE_WARNINGS
from shardlens.pipeline.images.header import Header, read_header
from shardlens.pipeline.images.policy import DecodePolicy
from shardlens.pipeline.images.shards import Failure, ImageRef
from shardlens.pipeline.warehouse import tables

HEADER = 1 << 16
"""Bytes read of an image at first; where its header is longer all of the image is read."""
BATCH = 128

Fault = tuple[int, str, str]
"""Row of the image, kind of problem, in words."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Neighboring rows of the listed images; what travels to a worker."""

    first: int
    """Row of the first image."""
    file_names: tuple[str, ...]
    images: tuple[Place | None, ...]
    """None = its header is known."""
    sidecars: tuple[Place | None, ...]

    def single(self, index: int) -> Batch:
        """The batch of one of its images alone."""
        one = slice(index, index + 1)
        return Batch(self.first + index, self.file_names[one], self.images[one], self.sidecars[one])


@dataclass(frozen=True)
class Inspected:
    """What the headers and annotation files of a batch say."""

    first: int
    headers: tuple[Header | None, ...]
    """None if it could not be read."""
    stated: tuple[tuple[int, int] | None, ...]
    """(width, height) as the image's annotation file gives it."""
    annotations: pa.Table
    """Rows of `tables.ANNOTATIONS`; image_id is the image's row."""
    faults: tuple[Fault, ...]
    heads: tuple[bytes | None, ...] = ()
    """Digest of the first bytes of each image; None = could not be read."""

    @property
    def sizes(self) -> tuple[tuple[int, int] | None, ...]:
        """(width, height) of the stored images."""
        return tuple(None if header is None else (header.width, header.height) for header in self.headers)


@dataclass(frozen=True)
class Inspect:
    """The stage: `Batch` -> `Inspected`."""

    sidecar: Sidecar | None = None
    policy: DecodePolicy | None = None
    """Decode the pixels of every image, too, in this way."""

    def setup(self) -> Callable[[Batch], Inspected]:
        """Nothing is loaded."""
        return self.run

    def run(self, batch: Batch) -> Inspected:
        """Read the headers and the annotation files of `batch`, many at once.

        Raises:
            StorageUnavailableError: the store failed after every retry.
        """
        faults: list[Fault] = []
        heads = _read_some([None if place is None else _head(place) for place in batch.images])
        headers = _headers(batch, heads, faults)
        if self.policy is not None:
            faults += _undecodable(batch, headers, self.policy)
        rows = RowBuffer(tables.ANNOTATIONS)
        stated = _parse(self.sidecar, batch, rows, faults) if self.sidecar else (None,) * len(headers)
        faults.sort(key=lambda fault: fault[0])
        digests = tuple(
            hashlib.sha256(data).digest()[:16] if isinstance(data, bytes) and data else None for data in heads
        )
        return Inspected(batch.first, headers, stated, rows.table(), tuple(faults), digests)


def _read(places: list[Place]) -> list[bytes | StorageError]:
    contents = storage.read_many(places)
    for data in contents:
        if isinstance(data, StorageUnavailableError):
            raise data
    return contents


def _read_some(places: list[Place | None]) -> list[bytes | StorageError | None]:
    """What lies at the places, None where none is named."""
    read = iter(_read([place for place in places if place is not None]))
    return [None if place is None else next(read) for place in places]


def _head(place: Place) -> Place:
    uri, offset, length = place
    return uri, offset or 0, HEADER if length is None else min(length, HEADER)


def _headers(batch: Batch, heads: list[bytes | StorageError | None], faults: list[Fault]) -> tuple[Header | None, ...]:
    """Read the headers from the first bytes of each image, or from all of them where those do not suffice."""
    headers = [_header(data, name) for data, name in zip(heads, batch.file_names, strict=True)]
    _look_behind_pixels(batch, heads, headers)
    missing = {i for i, data in enumerate(heads) if isinstance(data, LocationNotFoundError)}
    again = [
        (i, place)
        for i, (place, header) in enumerate(zip(batch.images, headers, strict=True))
        if place is not None and header is None and i not in missing
    ]
    for (i, _), data in zip(again, _read([place for _, place in again]), strict=True):
        try:
            if isinstance(data, StorageError):
                raise data
            with FILE_WARNINGS.of(batch.file_names[i]):
                headers[i] = read_header(data)
        except (ImageError, StorageError) as error:
            faults.append((batch.first + i, "unreadable-image", f"{batch.file_names[i]}: {error}"))
    faults.extend(
        (batch.first + i, "missing-image", f"{batch.file_names[i]}: nothing at {place[0]}")
        for i, place in enumerate(batch.images)
        if i in missing and place is not None
    )
    return tuple(headers)


def _look_behind_pixels(batch: Batch, heads: list[bytes | StorageError | None], headers: list[Header | None]) -> None:
    """Complete, in place, the headers of large PNGs with what stands behind their pixels, such as an orientation."""
    large = {
        i: (place, data)
        for i, (place, data) in enumerate(zip(batch.images, heads, strict=True))
        if place is not None
        and isinstance(data, bytes)
        and len(data) == HEADER
        and png.is_png(data)
        and headers[i] is not None
    }
    if large:
        with ThreadPoolExecutor(min(16, len(large))) as threads:
            ends = threads.map(_end, [place for place, _ in large.values()])
            for (i, (_, head)), end in zip(large.items(), ends, strict=True):
                data = png.with_end(head, end)
                headers[i] = headers[i] if data is None else _header(data, batch.file_names[i]) or headers[i]


def _end(place: Place) -> bytes:
    uri, offset, length = place
    size = storage.size(uri) if length is None else length
    return storage.read_range(uri, (offset or 0) + max(0, size - HEADER), min(size, HEADER))


def _header(data: bytes | StorageError | None, file_name: str) -> Header | None:
    if data is None or isinstance(data, StorageError):
        return None
    try:
        with FILE_WARNINGS.of(file_name):
            return read_header(data)
    except ImageError:
        return None


def _undecodable(batch: Batch, headers: Sequence[Header | None], policy: DecodePolicy) -> list[Fault]:
    """Decode the images whose headers could be read."""
    images = [
        ImageRef(batch.first + i, *place, header.width, header.height, batch.file_names[i])
        for i, (place, header) in enumerate(zip(batch.images, headers, strict=True))
        if place is not None and header is not None
    ]
    loaded = (value for _, value in load(images, Decoding(policy)))
    return [(value.image_id, "damaged-image", value.message) for value in loaded if isinstance(value, Failure)]


def _parse(sidecar: Sidecar, batch: Batch, rows: RowBuffer, faults: list[Fault]) -> tuple[tuple[int, int] | None, ...]:
    """Parse the annotation file of each image that has one, into `rows`."""
    stated: list[tuple[int, int] | None] = [None] * len(batch.images)
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
        stated[i] = parsed.size
        faults.extend((row, kind, text) for kind, text in parsed.problems)
        for annotation in parsed.rows:
            rows.add({**annotation, "image_id": row})
    return tuple(stated)


def batches(images: pa.Table, known: npt.NDArray[np.bool_] | None = None) -> Iterator[Batch]:
    """Cut the listed images into batches, made when asked for; the headers of those `known` (N,) are not read."""
    known = np.zeros(images.num_rows, bool) if known is None else known
    for first in range(0, images.num_rows, BATCH):
        rows = images.slice(first, BATCH).to_pydict()
        listed = zip(rows["uri"], rows["offset"], rows["length"], strict=True)
        skipped = known[first : first + BATCH].tolist()
        places = tuple(None if skip else place for skip, place in zip(skipped, listed, strict=True))
        columns = zip(rows["sidecar_uri"], rows["sidecar_offset"], rows["sidecar_length"], strict=True)
        sidecars = tuple(None if uri is None else (uri, offset, length) for uri, offset, length in columns)
        yield Batch(first, tuple(rows["file_name"]), places, sidecars)


def inspect(
    source: Source,
    executor: Executor,
    progress: ProgressListener,
    policy: DecodePolicy | None = None,
    unchanged: Unchanged | None = None,
) -> list[Inspected]:
    """Inspect all images of `source`; the results come in the order of its rows, whoever was ready first.

    With a `policy` the pixels of every image are decoded, too. Images whose header kills the worker that reads it are
    isolated by reading them one by one.

    Args:
        unchanged: images whose headers are known; of these, annotation files of their own alone are read.
    """
    images = source.images
    unchanged = unchanged or Unchanged.none(images.num_rows)
    has_file = images["sidecar_uri"].is_valid().to_numpy() & (source.sidecar is not None)
    rows = np.flatnonzero(~unchanged.known | has_file)
    part = images if len(rows) == images.num_rows else images.take(pa.array(rows)).combine_chunks()
    found = _inspected(Inspect(source.sidecar, policy), part, unchanged.known[rows], executor, progress)
    return [_completed(found, rows, unchanged)] if unchanged.known.any() else found


def _inspected(
    stage: Inspect,
    images: pa.Table,
    known: npt.NDArray[np.bool_],
    executor: Executor,
    progress: ProgressListener,
) -> list[Inspected]:
    total, done = images.num_rows, 0
    results: list[Inspected] = []
    lost: list[Batch] = []
    progress(Progress("ingest", done, total))
    for result in executor.map(stage, batches(images, known)):
        if isinstance(result, Done):
            results.append(result.value)
            done += len(result.value.headers)
            progress(Progress("ingest", done, total))
        else:
            lost.append(result.item)
    singles = [batch.single(i) for batch in lost for i in range(len(batch.images))]
    for result in executor.map(stage, singles, attempts=1) if singles else ():
        results.append(result.value if isinstance(result, Done) else _given_up(result))
    return sorted(results, key=lambda batch: batch.first)


def _completed(found: list[Inspected], rows: npt.NDArray[np.intp], unchanged: Unchanged) -> Inspected:
    """What was read of some `rows`, with what is known of the others, as one batch of all images."""
    count = len(unchanged.known)
    headers: list[Header | None] = [None] * count
    stated: list[tuple[int, int] | None] = [None] * count
    heads: list[bytes | None] = [None] * count
    read = zip(
        *([each for b in found for each in getattr(b, name)] for name in ("headers", "stated", "heads")), strict=True
    )
    for row, (header, size, head) in zip(rows.tolist(), read, strict=True):
        headers[row], stated[row], heads[row] = header, size, head
    known = np.flatnonzero(unchanged.known).tolist()
    for row, header, head in zip(known, unchanged.headers(), unchanged.heads(), strict=True):
        headers[row], heads[row] = header, head
    annotations = pa.concat_tables([b.annotations for b in found] or [tables.from_rows([], tables.ANNOTATIONS)])
    owners = pa.array(rows[annotations["image_id"].to_numpy()], pa.int64())
    annotations = annotations.set_column(1, tables.ANNOTATIONS.field("image_id"), owners)
    faults = tuple((int(rows[row]), kind, text) for b in found for row, kind, text in b.faults)
    return Inspected(0, tuple(headers), tuple(stated), annotations, faults, tuple(heads))


def deep_note(inspected: list[Inspected]) -> str:
    """A sentence about the images of more than 8 bits a value; empty where there are none."""
    headers = [header for batch in inspected for header in batch.headers]
    deep = sum(header is not None and header.deep for header in headers)
    if not deep:
        return ""
    return (
        f"{deep} of {len(headers)} images have more than 8 bits a value: predict and train scale them to 8 bits by the "
        "range of each image's values, or by the one that --value-range names, such as 0:4095"
    )


def _given_up(lost: Lost[Batch]) -> Inspected:
    batch = lost.item
    fault = (
        batch.first,
        "unreadable-image",
        f"{batch.file_names[0]}: reading it ended the worker ({lost.reason})",
    )
    return Inspected(batch.first, (None,), (None,), tables.from_rows([], tables.ANNOTATIONS), (fault,), (None,))
