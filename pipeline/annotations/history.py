"""The earlier versions of a dataset, as far as they decide the ids of its images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline import storage
from shardlens.pipeline.annotations.digests import FILE
from shardlens.pipeline.annotations.identity import Known, known_rows
from shardlens.pipeline.errors import LocationNotFoundError
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.datasets import Dataset, latest, pointed
from shardlens.pipeline.warehouse.layout import Warehouse

PREFIX = "removed-"
"""Of the names of files of removed images; one is named after its content, so that no writer replaces another's."""


@dataclass(frozen=True)
class History:
    """What a dataset was when it was looked at."""

    pointer: bytes | None
    """To the latest version, as it was stored; None if there is no such dataset."""
    dataset: Dataset | None = None
    """The latest version."""
    digests: pa.Table | None = None
    """Rows of `digests.DIGESTS`; None of a version that was written before there were any."""
    removed: pa.Table | None = None
    """Rows of `tables.REMOVED`: the images that only earlier versions have."""

    @classmethod
    def read(cls, warehouse: Warehouse, name: str) -> History:
        """Read the latest version, and the images of earlier ones.

        Raises:
            StorageError: a table or document that cannot be read.
        """
        pointer = latest(warehouse, name)
        if pointer is None:
            return cls(None)
        target = pointed(warehouse, name, pointer)
        dataset = Dataset.open(warehouse, name, target.version)
        place = storage.join(dataset.root, FILE)
        digests = tables.from_bytes(storage.read(place)) if storage.exists(place) else None
        if target.removed == "":
            removed = _of_versions(warehouse, dataset)
        elif target.removed is None:
            removed = tables.empty(tables.REMOVED)
        else:
            removed = tables.from_bytes(storage.read(storage.join(dataset.root, target.removed)))
        return cls(pointer, dataset, digests, removed)

    @cached_property
    def before(self) -> pa.Table:
        """The images of the latest version as rows of `tables.REMOVED`, in its order."""
        if self.dataset is None:
            return tables.empty(tables.REMOVED)
        return known_rows(self.dataset.images, [self.digests] if self.digests is not None else [])

    def known(self, kept: pa.Array) -> Known:
        """What ids may be given back, and which are given; `kept` are those of images that stay."""
        if self.dataset is None or self.removed is None:
            return Known(tables.empty(tables.REMOVED), np.zeros(0, np.int64))
        every = pa.concat_tables([self.before, self.removed])
        open_to = pc.and_(every["uri"].is_valid(), pc.invert(pc.is_in(every["image_id"], value_set=kept)))
        return Known(every.filter(open_to).combine_chunks(), every["image_id"].to_numpy())

    def gone(self, images: pa.Table) -> pa.Table:
        """Rows of `tables.REMOVED`: what any earlier version had and `images` has not; sorted by image_id."""
        if self.dataset is None or self.removed is None:
            return tables.empty(tables.REMOVED)
        every = pa.concat_tables([self.before, self.removed])
        left = pc.invert(pc.is_in(every["image_id"], value_set=images["image_id"].combine_chunks()))
        return every.filter(left).sort_by("image_id").combine_chunks()


def write_removed(root: str, removed: pa.Table) -> str | None:
    """Write removed images into the folder of a version, and return the file's name; None if there are none."""
    if removed.num_rows == 0:
        return None
    data = tables.to_bytes(removed)
    name = f"{PREFIX}{hashlib.sha256(data).hexdigest()[:8]}.parquet"
    storage.publish(storage.join(root, name), data)
    return name


def _of_versions(warehouse: Warehouse, dataset: Dataset) -> pa.Table:
    """The images of all versions that are there and that `dataset` has not, once.

    Versions of Shardlens that kept no such list gave one id to several images: such an id is given back to none.
    """
    parts = [tables.empty(tables.REMOVED), *_images_of_versions(warehouse, dataset)]
    every = pa.concat_tables(parts)
    left = every.filter(pc.invert(pc.is_in(every["image_id"], value_set=dataset.images["image_id"].combine_chunks())))
    rows: dict[int, dict[str, object]] = {}
    for row in left.to_pylist():
        known = rows.setdefault(row["image_id"], row)
        if any(known[name] != row[name] for name in ("uri", "file_name")):
            rows[row["image_id"]] = {"image_id": row["image_id"]}
    return tables.from_rows([rows[number] for number in sorted(rows)], tables.REMOVED)


def _images_of_versions(warehouse: Warehouse, dataset: Dataset) -> Iterator[pa.Table]:
    folder = warehouse.dataset(dataset.name)
    for child in storage.children(folder):
        if not child.endswith("/") or child.rstrip("/") == dataset.version:
            continue
        root = storage.join(folder, child.rstrip("/"))
        for name in storage.children(root):
            if name != "images.parquet" and not name.startswith(PREFIX):
                continue
            try:
                table = tables.from_bytes(storage.read(storage.join(root, name)))
            except LocationNotFoundError:  # removed meanwhile
                continue
            yield known_rows(tables.completed(table, tables.IMAGES)) if name == "images.parquet" else table
