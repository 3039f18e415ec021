"""Images without annotations: every image file below a folder or prefix, or in tars."""

from __future__ import annotations

from collections.abc import Sequence

from shardlens.pipeline.annotations.categories import ByName
from shardlens.pipeline.annotations.pairing import listed, place_columns
from shardlens.pipeline.annotations.source import Format, Look, Request, Source
from shardlens.pipeline.executors.base import Executor
from shardlens.pipeline.warehouse import tables


def read(request: Request, executor: Executor) -> Source:
    """List the images; they get ids in the order of their names."""
    images = request.catalog.images(request.images, executor)
    rows = len(images.names)
    columns: dict[str, Sequence[object]] = {"file_name": images.names, "split": [request.split] * rows}
    table = listed({**columns, "flags": [[]] * rows, **place_columns("", images.places)}, rows)
    empty = tables.from_rows([], tables.ANNOTATIONS)
    return Source(table, empty, ByName(request.classes), has_category_ids=bool(request.classes))


def recognizes(look: Look) -> str | None:
    """Everything without annotations."""
    return "images alone, no annotations were recognized" if look.request.annotations is None else None


FORMAT = Format("none", read, recognizes)
