"""COCO instances JSON: polygons, RLE and crowds; ids and boxes are kept to the bit.

Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline import masks, storage
from shardlens.pipeline.annotations import json_stream
from shardlens.pipeline.annotations.categories import ById
from shardlens.pipeline.annotations.coco_document import Document
from shardlens.pipeline.annotations.coco_ids import NO_ID, TEXT, own_ids
from shardlens.pipeline.annotations.coco_images import place
from shardlens.pipeline.annotations.own_ids import kind_of
from shardlens.pipeline.annotations.problems import Flags, Problems
from shardlens.pipeline.annotations.source import Format, Look, Request, Source
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.executors.base import Executor
from shardlens.pipeline.warehouse import tables

COUNTED = ("unreadable-flag", "unreadable-area", "unreadable-id")
"""Flags of annotations that are counted here; the others when masks are drawn and boxes checked."""


def read(request: Request, executor: Executor) -> Source:
    """Read the JSON file `request.annotations` and find its images below `request.images`."""
    where = request.annotations
    if where is None:
        raise ConfigError("the format coco needs the URI of an instances JSON file: give it with --annotations")
    if request.classes:
        raise ConfigError(f"{where} names its own categories: leave --classes out with the format coco")
    problems = Problems()
    document = Document(where, problems)
    for key, index, item in json_stream.items(json_stream.text_of(storage.read(where), where), where):
        document.take(key, index, item)
    document.check()
    numbers = document.image_ids.settle([entry.number for entry in document.images])
    placed = place(document, numbers, request, executor, problems)
    images = placed.images if "annotations" in document.seen else _without_truth(placed.images, where, problems)
    annotations = _attached(document, document.annotations.table(), images, problems)
    categories, annotations = _categorized(document, annotations, problems)
    return Source(
        images,
        annotations,
        ById(categories, keeps_names=True),
        has_ids=True,
        has_category_ids=True,
        id_kinds=_id_kinds(document, annotations),
        problems=problems,
        hints=placed.hints,
        unlisted=placed.unlisted,
    )


def _id_kinds(document: Document, annotations: pa.Table) -> dict[str, str]:
    numbers = sum(entry.number > TEXT and entry.number != NO_ID for entry in document.images)
    texts = sum(entry.text is not None for entry in document.images)
    named = len(annotations) - annotations["source_id"].null_count if "source_id" in annotations.schema.names else 0
    return {"images": kind_of(texts, numbers), "annotations": kind_of(named, len(annotations) - named)}


def recognizes(look: Look) -> str | None:
    """An instances file is named as the annotations."""
    return f"{look.root} is a JSON file" if look.root.lower().endswith(".json") else None


FORMAT = Format("coco", read, recognizes)


def _without_truth(images: pa.Table, where: str, problems: Problems) -> pa.Table:
    """Flag all images of a file that has no annotations, such as COCO's image_info files."""
    problems.add("image-without-annotation", images.num_rows, [f"{where} has no key 'annotations'"])
    flags = Flags(images["flags"])
    flags.mark("image-without-annotation", np.ones(images.num_rows, dtype=bool))
    return _set(images, "flags", flags.column())


def _categorized(document: Document, annotations: pa.Table, problems: Problems) -> tuple[pa.Table, pa.Table]:
    """The categories, and the annotations with their ids; those of a file that lists none are named after the ids."""
    ids = annotations["category_id"].to_numpy()
    if not document.categories:
        used = [number for number in np.unique(ids).tolist() if number != NO_ID]
        for number in sorted(used, key=lambda number: (number <= TEXT, -number if number <= TEXT else number)):
            text = document.category_ids.text(number)
            row = {"name": text if number <= TEXT else f"class {text}", "source_id": text if number <= TEXT else None}
            document.categories[number] = row
            problems.one("unnamed-category", f"{document.where} lists no categories; {text} is {row['name']!r}")
    numbers = document.category_ids.settle(list(document.categories))
    table = document.category_table(numbers)
    _check_names(table, problems)
    stuff = [i for i, stands in zip(numbers, document.categories, strict=True) if stands in document.stuff]
    settled = document.category_ids.refer(ids)
    flags, lost = Flags(annotations["flags"]), settled <= NO_ID
    if lost.any():
        texts = np.array([document.category_ids.text(number) for number in settled[lost].tolist()], dtype=object)
        names = pa.array([None if text == "(none)" else text for text in texts], pa.string())
        place = np.full(len(lost), -1)
        place[lost] = np.arange(lost.sum())
        annotations = _set(annotations, "category", names.take(pa.array(place, mask=~lost)))
        own = annotations["annotation_id"]
        flags.report(
            "unknown-category", lost, problems, lambda row: f"annotation {own[row]}: category {texts[place[row]]}"
        )
        annotations = _set(annotations, "flags", flags.column())
    annotations = _set(annotations, "category_id", pa.array(settled, mask=lost))
    return table, _as_regions(annotations, np.isin(settled, stuff))


def _as_regions(annotations: pa.Table, is_stuff: npt.NDArray[np.bool_]) -> pa.Table:
    """Masks of what the file calls no thing are regions."""
    if not is_stuff.any():
        return annotations
    regions = pc.and_(pc.equal(annotations["kind"], "instance"), pa.array(is_stuff))
    return _set(annotations, "kind", pc.if_else(regions, "region", annotations["kind"]))


def _check_names(categories: pa.Table, problems: Problems) -> None:
    by_name: dict[str, list[int]] = {}
    for number, name in zip(categories["category_id"].to_pylist(), categories["name"].to_pylist(), strict=True):
        by_name.setdefault(name, []).append(number)
    again = [f"{name!r} is {' and '.join(map(str, ids))}" for name, ids in by_name.items() if len(ids) > 1]
    problems.add("duplicate-category-name", len(again), again)


def _attached(document: Document, annotations: pa.Table, images: pa.Table, problems: Problems) -> pa.Table:
    """Keep the annotations of listed images, each under an id of its own."""
    owners = document.image_ids.refer(annotations["image_id"].to_numpy())
    known = np.isin(owners, images["image_id"].to_numpy())
    lost, spots = np.flatnonzero(~known), annotations["annotation_id"]
    problems.add(
        "unknown-image",
        len(lost),
        (
            f"annotation {_spot(spots[row].as_py())} of image {document.image_ids.text(int(owners[row]))}"
            for row in lost
        ),
    )
    annotations = _unique_ids(_set(annotations, "image_id", pa.array(owners)).filter(pa.array(known)), problems)
    flags, ids = Flags(annotations["flags"]), annotations["annotation_id"]
    for kind in COUNTED:
        rows = flags.rows(kind)
        problems.add(kind, len(rows), (f"annotation {ids[int(row)]}" for row in rows))
    return tables.without_empty(annotations, tables.SOURCE_ID.name)


def _spot(number: int) -> str:
    return "(no number)" if number == NO_ID else str(number)


def _unique_ids(annotations: pa.Table, problems: Problems) -> pa.Table:
    old = annotations["annotation_id"].to_numpy()
    ids, twice = own_ids(old, annotations["source_id"].to_pylist() if (old == NO_ID).any() else [])
    if (ids == old).all():
        return annotations
    flags = Flags(annotations["flags"])
    flags.report("duplicate-annotation-id", twice, problems, lambda row: f"annotation {old[row]}, kept as {ids[row]}")
    return _set(_set(annotations, "annotation_id", pa.array(ids)), "flags", flags.column())


def _set(table: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    place = table.schema.names.index(name)
    return table.set_column(place, table.schema.field(place), column)


def stuff_categories(annotations: pa.Table) -> frozenset[int]:
    """Categories that are annotated as regions and never as objects."""
    kinds = annotations.group_by("category_id").aggregate([("kind", "distinct")]).to_pylist()
    return frozenset(row["category_id"] for row in kinds if row["kind_distinct"] == ["region"])


def to_coco(row: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a row of the annotations table back into a COCO annotation; `read` gives the same row again.

    A crowd's RLE becomes a list of run lengths as in COCO's own files, another RLE compressed text. COCO has no word for
    the kind of a mask: a region says so in a key of its own.
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
    kind = {"kind": "region"} if row["kind"] == "region" else {}
    return {**coco, **kind, "ignore": 1} if row["ignore"] else {**coco, **kind}


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
