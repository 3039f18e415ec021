"""The tables' schemas, and reading and writing them as Parquet whose bytes depend on nothing but the rows."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shardlens.pipeline.errors import StorageError

BBOX = pa.struct([(side, pa.float64()) for side in ("x", "y", "width", "height")])
"""A box as COCO has it: x, y of the top left corner, width, height; pixels of the stored image."""

RLE = pa.struct([("size", pa.list_(pa.int32(), 2)), ("counts", pa.string())])
"""A mask as compressed COCO run-length encoding: size = [height, width]."""

SOURCE_ID = pa.field("source_id", pa.string())
"""A row's id in the dataset's own file, as text. The last column of annotations and categories where it is not the row's id."""

IMAGES = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        ("offset", pa.int64()),  # of a tar's member; null = the whole object
        ("length", pa.int64()),
        ("width", pa.int32()),  # of the stored image, before its EXIF orientation; null = could not be read
        ("height", pa.int32()),
        ("split", pa.string()),
        pa.field("flags", pa.list_(pa.string()), nullable=False),  # problems found at ingest, by kind
        SOURCE_ID,  # null = the format gives none
        ("bytes", pa.int64()),  # of the object or tar member; null = unknown
        ("etag", pa.string()),  # what the store gives: another one = another content; null = it gives none
    ]
)

REMOVED = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        ("uri", pa.string()),  # null = the id was given to several images, and is given back to none
        ("file_name", pa.string()),
        ("offset", pa.int64()),
        ("split", pa.string()),
        ("source_id", pa.string()),
        ("bytes", pa.int64()),
        ("head", pa.binary()),  # digest of the first bytes
    ]
)
"""Images of earlier versions of a dataset, whose ids are never given to others."""

ANNOTATIONS = pa.schema(
    [
        pa.field("annotation_id", pa.int64(), nullable=False),
        pa.field("image_id", pa.int64(), nullable=False),
        ("category_id", pa.int64()),  # null = void: pixels or boxes that are not scored
        ("category", pa.string()),
        pa.field("kind", pa.string(), nullable=False),  # box, instance (one object's mask), region (a class's pixels)
        ("bbox", BBOX),
        ("area", pa.float64()),
        pa.field("iscrowd", pa.bool_(), nullable=False),
        pa.field("ignore", pa.bool_(), nullable=False),  # neither found nor missed (VOC's difficult)
        ("segmentation", RLE),
        ("polygons", pa.list_(pa.list_(pa.float64()))),  # as annotated; segmentation holds the same as RLE
        pa.field("flags", pa.list_(pa.string()), nullable=False),
    ]
)

CATEGORIES = pa.schema(
    [
        pa.field("category_id", pa.int64(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        ("supercategory", pa.string()),
    ]
)

PREDICTIONS = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # 0 = the image's highest score
        ("category_id", pa.int64()),  # null = the model's label names no category of the dataset
        pa.field("category", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # box, instance, region
        pa.field("score", pa.float64(), nullable=False),
        ("bbox", BBOX),
        ("area", pa.float64()),
        ("segmentation", RLE),
        ("file_name", pa.string()),  # of the image; null in parts of earlier versions
    ]
)

OUTCOMES = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # ok or quarantined
        ("stage", pa.string()),  # where a quarantined image failed: fetch, decode, predict, worker
        ("error", pa.string()),
        ("message", pa.string()),
        pa.field("predictions", pa.int32(), nullable=False),
        ("file_name", pa.string()),  # null in parts of earlier versions, as is the next
        ("etag", pa.string()),  # of the image that was predicted
    ]
)

METRICS = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),  # bbox, segm, semantic, panoptic
        pa.field("metric", pa.string(), nullable=False),  # AP, AP50, ..., AR1, ..., Dice, IoU, accuracy
        ("category_id", pa.int64()),  # null = mean over the categories
        ("category", pa.string()),
        ("iou", pa.float64()),  # null = mean over 0.50:0.95
        ("area", pa.string()),  # all, small, medium, large
        ("max_dets", pa.int32()),
        ("value", pa.float64()),  # null = undefined (nothing to find)
        pa.field("support", pa.int64(), nullable=False),  # objects, or pixels, of the truth
        ("epoch", pa.int32()),  # of a training run, after which it was validated; null = the score of predictions
        ("step", pa.int64()),
    ]
)

CURVES = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("category_id", pa.int64(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("iou", pa.float64(), nullable=False),
        pa.field("recall", pa.float64(), nullable=False),
        pa.field("precision", pa.float64(), nullable=False),
        ("score", pa.float64()),
    ]
)

TRAINING = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("epoch", pa.int32(), nullable=False),  # 1, 2, ...
        pa.field("step", pa.int64(), nullable=False),  # 1, 2, ..., over all epochs
        pa.field("images", pa.int32(), nullable=False),  # of all workers
        pa.field("loss", pa.float64(), nullable=False),  # mean over the workers' images
        pa.field("parts", pa.map_(pa.string(), pa.float64()), nullable=False),  # of which the loss is the sum
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("learning_rates", pa.map_(pa.string(), pa.float64()), nullable=False),  # by the optimizer's group
        pa.field("gradient_norm", pa.float64(), nullable=False),  # before it was shortened
        pa.field("seconds", pa.float64(), nullable=False),  # of the first worker
        pa.field("wait_seconds", pa.float64(), nullable=False),  # of which it waited for data
        ("images_per_second", pa.float64()),  # of all workers
    ]
)


RUNS = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("dataset_version", pa.string(), nullable=False),
        ("model", pa.string()),
        ("task", pa.string()),
        pa.field("images", pa.int64(), nullable=False),
        pa.field("predictions", pa.int64(), nullable=False),
        pa.field("quarantined", pa.int64(), nullable=False),
        pa.field("parts", pa.int64(), nullable=False),
        ("seconds", pa.float64()),  # of the attempt that committed it
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("settings", pa.string(), nullable=False),  # JSON
    ]
)


@dataclass(frozen=True)
class Table:
    """A table of the warehouse, which SQL sees as a view of the same name."""

    name: str
    schema: pa.Schema
    partitions: tuple[str, ...] = ()
    """Columns that stand in the made-up path of a file: dataset and its version, or dataset, run and its dataset's version."""
    places: tuple[str, ...] = ()
    """Where its files lie below the root, with {dataset}, {version} and {run}; of several places the first that is there.

    Below `datasets/` a file belongs to a dataset's version, below `checkpoints/` to a training run, elsewhere to a committed
    run. A place that ends in / is a folder, of whose files the commit names those that are seen.
    """
    later: tuple[str, ...] = ()
    """Columns that files of earlier versions lack; which files these are, the documents that name them tell."""
    grown: bool = False
    """Whether files of earlier versions lack columns, which are null then; every file's footer is read for that."""

    @property
    def columns(self) -> list[str]:
        """Partitions first."""
        return [*self.partitions, *(name for name in self.schema.names if name not in self.partitions)]


OF_VERSION, OF_RUN = ("dataset", "version", "dataset_version"), ("dataset", "run", "dataset_version")
TABLES = {
    table.name: table
    for table in (
        Table(
            "images",
            IMAGES,
            OF_VERSION,
            ("datasets/{dataset}/{version}/images.parquet",),
            later=("source_id", "bytes", "etag"),
        ),
        Table("annotations", ANNOTATIONS, OF_VERSION, ("datasets/{dataset}/{version}/annotations.parquet",)),
        Table("categories", CATEGORIES, OF_VERSION, ("datasets/{dataset}/{version}/categories.parquet",)),
        Table("predictions", PREDICTIONS, OF_RUN, ("predictions/dataset={dataset}/run={run}/",), later=("file_name",)),
        Table("outcomes", OUTCOMES, OF_RUN, ("outcomes/dataset={dataset}/run={run}/",), later=("file_name", "etag")),
        Table(
            "metrics",
            METRICS,
            OF_RUN,
            ("metrics/dataset={dataset}/run={run}/metrics.parquet", "checkpoints/{run}/metrics.parquet"),
            grown=True,
        ),
        Table(
            "curves",
            CURVES,
            OF_RUN,
            # the second is the place of versions up to 0.1
            ("curves/dataset={dataset}/run={run}/curves.parquet", "metrics/dataset={dataset}/run={run}/curves.parquet"),
        ),
        Table("training", TRAINING, OF_RUN, ("checkpoints/{run}/training.parquet",)),
        Table("runs", RUNS),  # made of the runs' documents
    )
}
"""All tables; one that is added here, or by another package, is a view."""


def to_bytes(table: pa.Table, metadata: Mapping[str, str] | None = None) -> bytes:
    """Serialize `table` as Parquet, `metadata` in its footer."""
    if metadata:
        kept = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        table = table.replace_schema_metadata({**kept, **metadata})
    sink = io.BytesIO()
    pq.write_table(
        table, sink, compression="zstd", row_group_size=1 << 17, write_page_index=True, write_page_checksum=True
    )
    return sink.getvalue()


def from_bytes(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table that `to_bytes` wrote, checking its pages; `columns` names those wanted (None = all).

    Raises:
        StorageError: it is damaged.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        return file.read(columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise StorageError(
            f"a Parquet file of {len(data)} bytes is damaged ({error}): restore it, or predict again"
        ) from None


def checked(uri: str, data: bytes) -> bytes:
    """Return the Parquet file that was read from `uri` if all its pages have their checksums.

    Raises:
        StorageError: it is damaged.
    """
    try:
        from_bytes(data)
    except StorageError as error:
        raise StorageError(f"{uri}: {error}") from None
    return data


def footer(data: bytes) -> dict[str, str]:
    """Return the metadata that `to_bytes` put into the footer."""
    found = pq.read_metadata(io.BytesIO(data)).metadata or {}
    return {k.decode(): v.decode() for k, v in found.items() if k != b"ARROW:schema"}


def empty(schema: pa.Schema) -> pa.Table:
    """Make a table without rows, and unlike `schema.empty_table()` without the third of a second to import pandas."""
    return pa.Table.from_batches([], schema)


def from_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Make a table of `rows`, columns absent from a row null."""
    return pa.Table.from_pylist(list(rows), schema=schema)


def completed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of `schema` first, null where an earlier version did not write them, then the others of the table."""
    there = table.schema.names
    if there[: len(schema)] == schema.names:
        return table
    columns = {field.name: table[field.name] if field.name in there else _nulls(table, field) for field in schema}
    others = {name: table[name] for name in there if name not in columns}
    fields = [*schema, *(table.schema.field(name) for name in others)]
    return pa.Table.from_arrays([*columns.values(), *others.values()], schema=pa.schema(fields))


def _nulls(table: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    return pa.chunked_array([pa.nulls(table.num_rows, field.type)])


def without_empty(table: pa.Table, name: str) -> pa.Table:
    """Leave a column out if nothing is in it."""
    return table.drop_columns([name]) if table[name].null_count == table.num_rows else table


def digest(*tables: pa.Table) -> str:
    """SHA-256 over the rows of `tables` in order, whatever their chunks: the identity of their content."""
    sink = _Hasher()
    for table in tables:
        plain = table.replace_schema_metadata(None).combine_chunks()
        with pa.ipc.new_stream(sink, plain.schema) as writer:
            writer.write_table(plain)
    return sink.sha.hexdigest()


class _Hasher(io.RawIOBase):
    """A file that keeps nothing but the SHA-256 of what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.sha = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha.update(data)
        return memoryview(data).nbytes
