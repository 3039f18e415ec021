"""Images without annotations: every image file below a folder or prefix, or in tars."""

from __future__ import annotations

from collections.abc import Sequence

from shardlens.pipeline.annotations import places
from shardlens.pipeline.annotations.categories import ByName
from shardlens.pipeline.annotations.pairing import listed, place_columns
from shardlens.pipeline.annotations.source import Request, Source
from shardlens.pipeline.executors.base import Executor
from shardlens.pipeline.warehouse import tables


def read(request: Request, executor: Executor) -> Source:
    """List the images; they get ids in the order of their names."""
    found = places.images(request.images, executor)
    rows = len(found.names)
    columns: dict[str, Sequence[object]] = {"file_name": found.names, "split": [request.split] * rows}
    images = listed({**columns, "flags": [[]] * rows, **place_columns("", found.places)}, rows)
    empty = tables.from_rows([], tables.ANNOTATIONS)
    return Source(images, empty, ByName(request.classes), has_category_ids=bool(request.classes))
