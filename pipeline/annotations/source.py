"""What an annotation format is, and what each becomes: listed images, annotation rows, categories, and problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import pyarrow as pa

from shardlens.pipeline.annotations.catalog import Catalog
from shardlens.pipeline.annotations.label_scheme import LabelScheme, MaskKind
from shardlens.pipeline.annotations.places import Listing
from shardlens.pipeline.annotations.problems import Problems
from shardlens.pipeline.executors.base import Executor
from shardlens.pipeline.warehouse import tables

LISTED = pa.schema(
    [
        ("image_id", pa.int64()),  # null = the format gives none
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("width", pa.int32()),  # as given by the annotations
        ("height", pa.int32()),
        ("split", pa.string()),
        pa.field("flags", pa.list_(pa.string()), nullable=False),
        ("sidecar_uri", pa.string()),  # the image's own annotation file; null = none
        ("sidecar_offset", pa.int64()),
        ("sidecar_length", pa.int64()),
        tables.SOURCE_ID,
        ("bytes", pa.int64()),  # of the image's object or tar member
        ("etag", pa.string()),
    ]
)
"""Images as a reader lists them, before their headers are read."""


@dataclass(frozen=True)
class Request:
    """What a reader is asked for."""

    images: str
    """URI of the folder, prefix or tar that holds the images, or of a folder of tars."""
    annotations: str | None = None
    """URI of the annotation file or folder; None = next to the images, or none."""
    split: str | None = None
    """The one split wanted of a layout that has splits; the name of all images otherwise."""
    classes: tuple[str, ...] = ()
    """Names of the categories 1, 2, ...; empty = those that occur."""
    mask_kind: MaskKind = "auto"
    """What the pixels of mask images are: class ids or instance ids."""
    mask_pattern: str | None = None
    """Name of an image's mask, with `{stem}` for the image's stem; None = the usual ones are tried."""
    labels: LabelScheme = LabelScheme()  # noqa: RUF009 - frozen
    """What the values of mask pixels stand for."""
    catalog: Catalog = field(default_factory=Catalog, compare=False)
    """Lists the places, each once."""
    match_names: bool = False
    """Take the one file that a name could mean where no file is named so exactly."""


@dataclass(frozen=True)
class Look:
    """The places of a request, for telling which format lies there."""

    request: Request
    executor: Executor

    @property
    def root(self) -> str:
        """URI of the annotations, or of the images where no annotations are named."""
        return self.request.annotations or self.request.images

    @cached_property
    def files(self) -> Listing:
        """Everything that lies there."""
        return self.request.catalog.files(self.root, self.executor)


@dataclass(frozen=True)
class Parsed:
    """The content of an image's own annotation file."""

    rows: tuple[dict[str, Any], ...]
    """Annotation rows without ids; columns of `tables.ANNOTATIONS`."""
    size: tuple[int, int] | None = None
    """(width, height) that the file gives the image."""
    problems: tuple[tuple[str, str], ...] = ()
    """(kind, in words); the image is flagged with the kind."""


class Sidecar(Protocol):
    """Parses the annotation file of one image, in a worker."""

    def __call__(self, data: bytes, where: str, file_name: str) -> Parsed:
        """Parse `data`, read from `where`, the annotations of the image `file_name`."""
        ...


@dataclass(frozen=True)
class Categorized:
    """Annotation rows with their categories settled."""

    categories: pa.Table
    annotations: pa.Table


Categorize = Callable[[pa.Table, Problems], Categorized]
"""Settle the categories of all annotation rows, once they are known."""


@dataclass(frozen=True)
class Source:
    """A dataset as its reader returns it."""

    images: pa.Table
    """Rows of `LISTED`; sorted by file_name where the format gives no ids."""
    annotations: pa.Table
    """Rows of `tables.ANNOTATIONS` of formats that keep all in one file; empty where images have their own files."""
    categorize: Categorize
    """Settles the categories of all rows together."""
    sidecar: Sidecar | None = None
    """Parses the images' own annotation files."""
    has_ids: bool = False
    """Whether image and annotation ids are the format's own, not to be changed."""
    id_kinds: Mapping[str, str] = field(default_factory=dict)
    """What the format's own ids of `images` and `annotations` are: see `own_ids`."""
    has_category_ids: bool = False
    """Whether category ids are the format's own."""
    problems: Problems = field(default_factory=Problems)
    hints: Mapping[str, str] = field(default_factory=dict)
    """file_name of an image -> what it could mean, for the message if the image is missing."""
    unlisted: pa.Table | None = None
    """Rows of `LISTED` without ids: images that lie there and that the annotations do not list."""


class Reader(Protocol):
    """Turns URIs into a `Source`; raises `DatasetError` where nothing can be made of them."""

    def __call__(self, request: Request, executor: Executor) -> Source:
        """Read what `request` asks for, wide work through `executor`."""
        ...


@dataclass(frozen=True)
class Format:
    """An annotation format: one module with its reader, and one line in `formats`."""

    name: str
    """What `--format` calls it."""
    reader: Reader
    recognizes: Callable[[Look], str | None]
    """Why the places hold this format, in words; None if they do not."""


@dataclass
class RowBuffer:
    """Gathers rows and packs them a chunk at a time, so that millions never stand in memory as dicts."""

    schema: pa.Schema
    chunk: int = 16384
    _rows: list[Mapping[str, Any]] = field(default_factory=list)
    _packed: list[pa.Table] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows taken so far."""
        return sum(int(table.num_rows) for table in self._packed) + len(self._rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Take one row; columns absent from it are null."""
        self._rows.append(row)
        if len(self._rows) >= self.chunk:
            self._pack()

    def _pack(self) -> None:
        self._packed.append(tables.from_rows(self._rows, self.schema))
        self._rows = []

    def table(self) -> pa.Table:
        """All rows taken so far."""
        self._pack()
        return pa.concat_tables(self._packed)


def annotation_row(**columns: Any) -> dict[str, Any]:
    """Make a row of `tables.ANNOTATIONS` with its usual values; ids of -1 are given later."""
    usual = {"annotation_id": -1, "image_id": -1, "kind": "box", "iscrowd": False, "ignore": False, "flags": []}
    return {**usual, **columns}


def bbox_struct(x: float, y: float, width: float, height: float) -> dict[str, float]:
    """Return a box (x, y of the top left corner, width, height; pixels) as the tables hold it."""
    return {"x": x, "y": y, "width": width, "height": height}
