"""Dataset versions: opened by name, and listed."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline import storage
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.warehouse import documents, tables
from shardlens.pipeline.warehouse.layout import Warehouse, read_json, to_json
from shardlens.pipeline.warehouse.removal import marked_by

PARTS = ("images", "annotations", "categories")
UNKNOWN_TRUTH = ("image-without-annotation", "unreadable-annotation", "unlisted-image", "mask-of-another-size")
"""Flags of images whose annotations are not known: such an image must not be taken for one without objects."""


@dataclass(frozen=True)
class Dataset:
    """One version of a dataset; its tables are read when they are asked for."""

    name: str
    version: str
    root: str
    """URI of the version's folder."""
    document: dict[str, Any]
    """What `dataset.json` says, checked against `documents.DatasetDocument`; other fields are kept as they are."""

    @classmethod
    def open(cls, warehouse: Warehouse, name: str, version: str | None = None) -> Dataset:
        """Open a dataset, its latest version where none is named.

        Raises:
            DatasetError: there is no such dataset or version.
            StorageError: the warehouse is not one, or cannot be read.
        """
        warehouse.check()
        pointer = latest(warehouse, name)
        if pointer is None:
            raise DatasetError(_unknown(warehouse, name))
        version = version or version_of(warehouse, name, pointer)
        document = storage.join(warehouse.dataset(name, version), "dataset.json")
        if not storage.exists(document):
            there = [child.rstrip("/") for child in storage.children(warehouse.dataset(name)) if child.endswith("/")]
            raise DatasetError(f"dataset {name} has no version {version!r}: expected one of {', '.join(there)}")
        found = read_json(document)
        documents.decode(documents.DatasetDocument, document, found)
        return cls(name, version, warehouse.dataset(name, version), found)

    def check_stays(self) -> None:
        """Make sure that nobody is removing this version; asked once what refers to it is written.

        Raises:
            DatasetError: somebody is, or has removed it.
        """
        marked = any(marked_by(folder) for folder in (self.root, self.root.rpartition("/")[0]))
        if marked or not storage.exists(storage.join(self.root, "dataset.json")):
            raise DatasetError(_being_deleted(self.name, self.version))

    def _table(self, part: str) -> pa.Table:
        return tables.from_bytes(storage.read(storage.join(self.root, f"{part}.parquet")))

    @cached_property
    def images(self) -> pa.Table:
        """Rows of `tables.IMAGES`, sorted by image_id."""
        return tables.completed(self._table("images"), tables.IMAGES)

    @cached_property
    def annotations(self) -> pa.Table:
        """Rows of `tables.ANNOTATIONS`, sorted by image_id, annotation_id."""
        return self._table("annotations")

    @cached_property
    def categories(self) -> pa.Table:
        """Rows of `tables.CATEGORIES`, sorted by category_id."""
        return self._table("categories")


def annotated(images: pa.Table) -> pa.Table:
    """Keep the images whose annotations are known: the only ones that are scored and trained on by default.

    An image without objects has known annotations; one with a flag of `UNKNOWN_TRUTH` has not.

    Args:
        images: rows of `tables.IMAGES`.
    """
    flags = images["flags"].combine_chunks()
    unknown = pc.is_in(pc.list_flatten(flags), value_set=pa.array(UNKNOWN_TRUTH))
    rows = pc.unique(pc.list_parent_indices(flags).filter(unknown))
    if len(rows) == 0:
        return images
    kept = np.ones(images.num_rows, dtype=bool)
    kept[rows.to_numpy()] = False
    return images.filter(pa.array(kept)).combine_chunks()


def require_images(images: pa.Table, dataset: str) -> None:
    """Make sure that not all of the images were missing when they were ingested.

    Args:
        images: rows of `tables.IMAGES`, one or more.

    Raises:
        DatasetError: none was there.
    """
    missing = pc.sum(pc.equal(pc.list_flatten(images["flags"]), "missing-image")).as_py() or 0
    if missing == images.num_rows:
        raise DatasetError(
            f"none of the {missing} images of dataset {dataset} was there when it was ingested (the first: "
            f"{images['uri'][0]}): results made elsewhere can be imported and scored; to predict or train, ingest it "
            "again with --images at the images"
        )


def latest(warehouse: Warehouse, name: str) -> bytes | None:
    """Return the document that points to a dataset's latest version, as it is stored; None if there is no such dataset."""
    uri = storage.join(warehouse.dataset(name), "latest.json")
    return storage.read(uri) if storage.exists(uri) else None


def version_of(warehouse: Warehouse, name: str, pointer: bytes) -> str:
    """Return the version that a pointer names.

    Raises:
        StorageError: it is damaged.
    """
    return pointed(warehouse, name, pointer).version


def pointed(warehouse: Warehouse, name: str, pointer: bytes) -> documents.LatestDocument:
    """Read a pointer.

    Raises:
        StorageError: it is damaged.
    """
    uri = storage.join(warehouse.dataset(name), "latest.json")
    return documents.parse(documents.LatestDocument, uri, pointer)


def advance(warehouse: Warehouse, name: str, expected: bytes | None, version: str, removed: str | None = None) -> bool:
    """Make a version the latest, unless another writer has moved the pointer since it was `expected`.

    Args:
        removed: name of the file of removed images in the version's folder; None = there are none.

    Raises:
        DatasetError: the dataset or this version, which is there from before, is being deleted.
    """
    folder = warehouse.dataset(name, version)
    complete = {"dataset.json", *(f"{part}.parquet" for part in PARTS)} <= set(storage.children(folder))
    if not complete or any(marked_by(each) for each in (folder, warehouse.dataset(name))):
        raise DatasetError(_being_deleted(name, version))
    document = to_json(asdict(documents.LatestDocument(version, removed)))
    return storage.swap(storage.join(warehouse.dataset(name), "latest.json"), expected, document)


def _being_deleted(name: str, version: str) -> str:
    return (
        f"dataset {name}@{version} is being deleted, or a deletion of it was interrupted: wait until it has ended, or finish "
        "it with 'shardlens gc', then rerun this command"
    )


def list_datasets(warehouse: Warehouse) -> list[Dataset]:
    """Open the latest version of every dataset, sorted by name."""
    warehouse.check()
    return [Dataset.open(warehouse, name) for name in _names(warehouse)]


def _names(warehouse: Warehouse) -> list[str]:
    root = warehouse.path("datasets")
    names = [child.rstrip("/") for child in storage.children(root) if child.endswith("/")]
    return [name for name in names if storage.exists(storage.join(root, name, "latest.json"))]


def _unknown(warehouse: Warehouse, name: str) -> str:
    known = _names(warehouse)
    near = difflib.get_close_matches(name, known, n=3)
    if not known:
        return (
            f"no dataset {name!r} in {warehouse.root}, which holds none: create it with 'shardlens ingest {name} ...'"
        )
    hint = f"did you mean {' or '.join(near)}? It" if near else "it"
    return f"no dataset {name!r} in {warehouse.root}: {hint} holds {', '.join(known)}"
