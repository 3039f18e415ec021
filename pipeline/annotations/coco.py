"""COCO instances JSON: polygons, RLE and crowds; ids and boxes are kept to the bit.

Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from shardlens.pipeline import masks, storage
from shardlens.pipeline.annotations import json_stream, places
from shardlens.pipeline.annotations.categories import ById
from shardlens.pipeline.annotations.coco_document import Document
from shardlens.pipeline.annotations.problems import Flags, Problems
from shardlens.pipeline.annotations.source import LISTED, Format, Look, Request, RowBuffer, Source
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.executors.base import Executor
from shardlens.pipeline.warehouse import tables

Locate = Callable[[str], tuple[places.Place, bool]]
"""file_name -> place, and whether it is there for all that is known."""


def read(request: Request, executor: Executor) -> Source:
    """Read the JSON file `request.annotations` and find its images below `request.images`."""
    where = request.annotations
    if where is None:
        raise ConfigError("the format coco needs the URI of an instances JSON file: give it with --annotations")
    if request.classes:
        raise ConfigError(f"{where} names its own categories: leave --classes out with the format coco")
    document = Document(where, request.split)
    for key, index, item in json_stream.items(json_stream.text_of(storage.read(where), where), where):
        document.take(key, index, item)
    document.check()
    problems = Problems()
    images = _placed(document, _locator(request, document.file_names, executor), problems)
    annotations = _attached(document.annotations.table(), images, problems)
    categorize = ById(document.categories.table())
    return Source(images, annotations, categorize, has_ids=True, has_category_ids=True, problems=problems)


def recognizes(look: Look) -> str | None:
    """An instances file is named as the annotations."""
    return f"{look.root} is a JSON file" if look.root.lower().endswith(".json") else None


FORMAT = Format("coco", read, recognizes)


def _locator(request: Request, file_names: list[str], executor: Executor) -> Locate:
    """Say how file names become places: below a folder without asking for them, in tars by their members."""
    root = request.images
    inside = [root] if places.is_tar(root) else []
    first = next((uri for name in file_names if (uri := places.below(root, name))), None)
    if not inside and first is not None and not storage.exists(first):
        inside = [storage.join(root, name) for name in storage.children(root) if name.endswith(".tar")]
    if not inside:
        return lambda file_name: ((places.below(root, file_name) or "", None, None), True)
    members = request.catalog.files(root, executor)

    def find(file_name: str) -> tuple[places.Place, bool]:
        place = members.find(file_name)
        return place or (f"{root}/{file_name}", None, None), place is not None

    return find


def _placed(document: Document, locate: Locate, problems: Problems) -> pa.Table:
    """Make the table of images; one that leads out of the root, or repeats another entry, is refused."""
    images = RowBuffer(LISTED)
    taken: dict[int, str] = {}
    fresh = max(document.image_ids) + 1
    for number, name, (width, height) in zip(document.image_ids, document.file_names, document.sizes, strict=True):
        flags = []
        if places.below("", name) is None:
            problems.one("outside-root", f"image {number}: file_name {name!r}")
            continue
        if taken.get(number) == name:
            problems.one("repeated-image", f"image {number}: {name}")
            continue
        image_id = number
        if number in taken:
            image_id, fresh = fresh, fresh + 1
            flags.append("duplicate-image-id")
            problems.one("duplicate-image-id", f"id {number} of {taken[number]} again for {name}, kept as {image_id}")
        taken[image_id] = name
        (uri, offset, length), there = locate(name)
        if not there:
            flags.append("missing-image")
            problems.one("missing-image", f"image {image_id}: {name} is no member of the tars")
        row = {"image_id": image_id, "file_name": name, "uri": uri, "offset": offset, "length": length, "flags": flags}
        images.add({**row, "width": width, "height": height, "split": document.split})
    return images.table()


def _attached(annotations: pa.Table, images: pa.Table, problems: Problems) -> pa.Table:
    """Keep the annotations of listed images, each under an id of its own."""
    known = np.isin(annotations["image_id"].to_numpy(), images["image_id"].to_numpy())
    if known.all():
        return _unique_ids(annotations, problems)
    lost = annotations.filter(pa.array(~known)).select(["annotation_id", "image_id"])
    ids, owners = lost["annotation_id"], lost["image_id"]
    problems.add(
        "unknown-image",
        lost.num_rows,
        (f"annotation {i} of image {owner}" for i, owner in zip(ids, owners, strict=True)),
    )
    return _unique_ids(annotations.filter(pa.array(known)), problems)


def _unique_ids(annotations: pa.Table, problems: Problems) -> pa.Table:
    ids = annotations["annotation_id"].to_numpy().copy()
    _, first = np.unique(ids, return_index=True)
    again = np.ones(len(ids), dtype=bool)
    again[first] = False
    if not again.any():
        return annotations
    flags = Flags(annotations["flags"])
    old = ids.copy()
    ids[again] = ids.max() + 1 + np.arange(again.sum())
    flags.report("duplicate-annotation-id", again, problems, lambda row: f"annotation {old[row]}, kept as {ids[row]}")
    columns = annotations.schema.names
    renamed = annotations.set_column(0, tables.ANNOTATIONS.field("annotation_id"), pa.array(ids))
    return renamed.set_column(columns.index("flags"), tables.ANNOTATIONS.field("flags"), flags.column())


def to_coco(row: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a row of the annotations table back into a COCO annotation; `read` gives the same row again.

    A crowd's RLE becomes a list of run lengths as in COCO's own files, another RLE compressed text.
    """
    box = row["bbox"]
    coco = {
        "id": row["annotation_id"],
        "image_id": row["image_id"],
        "category_id": row["category_id"],
        "bbox": None if box is None else [box[side] for side in ("x", "y", "width", "height")],
        "area": row["area"],
        "iscrowd": int(row["iscrowd"]),
        "segmentation": _to_segmentation(row),
    }
    return {**coco, "ignore": 1} if row["ignore"] else coco


def _to_segmentation(row: Mapping[str, Any]) -> list[list[float]] | dict[str, Any]:
    if row["polygons"]:
        return list(row["polygons"])
    rle = row["segmentation"]
    if rle is None:
        return []
    height, width = rle["size"]
    if not row["iscrowd"]:
        return {"size": [height, width], "counts": rle["counts"]}
    return {"size": [height, width], "counts": masks.run_lengths(masks.Rle(height, width, rle["counts"])).tolist()}
