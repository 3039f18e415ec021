"""Images without annotations: every image file below a folder or prefix, or in tars."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import tables
from pipeline.annotations import places
from pipeline.annotations.categories import ByName
from pipeline.annotations.pairing import listed, place_columns
from pipeline.annotations.source import Request, Source
from pipeline.execution import Executor


def read(request: Request, executor: Executor) -> Source:
    """List the images; they get ids in the order of their names."""
    found = places.images(request.images, executor)
    rows = len(found.names)
    columns: dict[str, Sequence[object]] = {"file_name": found.names, "split": [request.split] * rows}
    images = listed({**columns, "flags": [[]] * rows, **place_columns("", found.places)}, rows)
    empty = tables.from_rows([], tables.ANNOTATIONS)
    return Source(images, empty, ByName(request.classes), has_category_ids=bool(request.classes))
