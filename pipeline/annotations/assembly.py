"""From what a reader listed and the workers found to the three tables, every doubtful row flagged and reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline import masks
from shardlens.pipeline.annotations.frame import (
    COLUMN,
    AskedFrame,
    Frame,
    FrameChoice,
    Ints,
    choose,
    from_upright,
    upright_sizes,
)
from shardlens.pipeline.annotations.inspection import Fault, Inspected
from shardlens.pipeline.annotations.problems import Flags, Problems
from shardlens.pipeline.annotations.source import Source
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.warehouse import tables

ROUNDING = 0.05
"""Pixels by which a box may reach out of its image: files round coordinates to hundredths."""
CHUNK = 16384

Floats = npt.NDArray[np.float64]
Sizes = npt.NDArray[np.int64]
"""(N, 2) width, height; -1 = unknown."""


@dataclass(frozen=True)
class Assembled:
    """The tables of one ingest, sorted by their ids."""

    images: pa.Table
    annotations: pa.Table
    categories: pa.Table


def choose_frame(asked: AskedFrame, source: Source, inspected: list[Inspected]) -> FrameChoice:
    """Choose the frame of the annotations by what they and the headers tell."""
    if source.sidecar is None and source.annotations.num_rows == 0:
        return FrameChoice("stored")
    return choose(asked, _orientations(inspected), _header_sizes(inspected), _stated(source, inspected))


def assemble(source: Source, inspected: list[Inspected], problems: Problems, frame: Frame = "stored") -> Assembled:
    """Make the tables of `source` and what `inspected` found of its images, in the order of its rows.

    Annotations of the upright `frame` are checked and drawn in it, then turned into the frame of the stored images.

    Raises:
        DatasetError: not one image, or not one annotation file, could be read.
    """
    flags = Flags(source.images["flags"])
    _take_faults(source, inspected, flags, problems)
    header = _header_sizes(inspected)
    turns = _orientations(inspected) if frame == "upright" else np.ones(len(header), np.int64)
    seen = upright_sizes(turns, header)
    stated = _stated(source, inspected)
    if "no-images" in problems.counts:
        header = seen = stated  # what predictions of absent images are measured by
    _check_sizes(source, seen, stated, flags, problems)
    _check_names(source, flags, problems)
    images = _images(source, header, flags)
    annotations = _collect(source, images, inspected)
    settled = source.categorize(annotations, problems)
    annotations = _finish(settled.annotations, images, np.where(seen > 0, seen, stated), problems)
    images = _flag_owners(images, annotations, "mask-of-another-size")
    if (turns > 1).any():
        images = images.append_column(COLUMN, pa.array(turns, COLUMN.type, mask=turns == 1))
        annotations = from_upright(annotations, images)
    return Assembled(
        by_ids(images, "image_id"),
        by_ids(annotations, "image_id", "annotation_id"),
        by_ids(settled.categories, "category_id"),
    )


def _header_sizes(inspected: list[Inspected]) -> Sizes:
    return np.array([size or (-1, -1) for batch in inspected for size in batch.sizes], np.int64).reshape(-1, 2)


def _orientations(inspected: list[Inspected]) -> Ints:
    """(N,) EXIF orientation of each image, 1 where its header could not be read."""
    headers = (header for batch in inspected for header in batch.headers)
    return np.array([1 if header is None else header.orientation for header in headers], np.int64)


def by_ids(table: pa.Table, *columns: str) -> pa.Table:
    """Sort by columns of ids; a table that is sorted already is not copied."""
    keys = [table[column].to_numpy() for column in columns]
    order = np.lexsort(keys[::-1])
    is_sorted = bool((np.diff(order) == 1).all())
    return (table if is_sorted else table.take(pa.array(order))).combine_chunks()


def _take_faults(source: Source, inspected: list[Inspected], flags: Flags, problems: Problems) -> None:
    faults = [fault for batch in inspected for fault in batch.faults]
    known = set(flags.rows("missing-image").tolist())
    faults = [fault for fault in faults if not (fault[1] == "missing-image" and fault[0] in known)]
    names = source.images["file_name"]
    faults = [(row, kind, text + source.hints.get(names[row].as_py(), "")) for row, kind, text in faults]
    unread = [text for _, kind, text in faults if kind in {"missing-image", "unreadable-image"}]
    if len(unread) + len(known) == source.images.num_rows:
        first = unread[0] if unread else source.images["file_name"][0].as_py()
        _check_absence(source, faults, first, problems)
    damaged = [text for _, kind, text in faults if kind == "unreadable-annotation"]
    if damaged and len(damaged) == source.images["sidecar_uri"].is_valid().to_numpy().sum():
        raise DatasetError(f"none of the {len(damaged)} annotation files could be read; the first: {damaged[0]}")
    for kind in {kind for _, kind, _ in faults}:
        rows, texts = zip(*[(row, text) for row, found, text in faults if found == kind], strict=True)
        flags.mark(kind, np.array(rows))
        problems.add(kind, len(rows), texts)


def _check_absence(source: Source, faults: Sequence[Fault], first: str, problems: Problems) -> None:
    """Of a format that lists the images itself all may be absent, so that results made elsewhere can be scored."""
    is_absent = source.has_ids and all(kind == "missing-image" for _, kind, _ in faults)
    if is_absent and not source.hints:
        problems.one("no-images", f"none of the {source.images.num_rows} images is there (the first: {first})")
        return
    raise DatasetError(
        f"none of the {source.images.num_rows} images could be read (the first: {first}): "
        "check that --images names the folder, prefix or tar that the file names start from"
    )


def _stated(source: Source, inspected: list[Inspected]) -> Sizes:
    """Sizes as the annotations tell them, from the one file or the images' own."""
    columns = [source.images[side].fill_null(-1).to_numpy() for side in ("width", "height")]
    listed = np.stack(columns, axis=1).astype(np.int64)
    own = np.array([size or (-1, -1) for batch in inspected for size in batch.stated], np.int64).reshape(-1, 2)
    return np.where(own > 0, own, listed)


def _check_sizes(source: Source, header: Sizes, stated: Sizes, flags: Flags, problems: Problems) -> None:
    names = source.images["file_name"]
    differ = (header > 0).all(axis=1) & (stated >= 0).all(axis=1) & (header != stated).any(axis=1)
    flags.report(
        "size-mismatch",
        differ,
        problems,
        lambda row: (
            f"{names[row]}: {stated[row][0]} x {stated[row][1]} in the annotations, "
            f"{header[row][0]} x {header[row][1]} in the image's header"
            + (" (the annotations seem to be of the turned image)" if (stated[row] == header[row][::-1]).all() else "")
        ),
    )


def _check_names(source: Source, flags: Flags, problems: Problems) -> None:
    names = source.images["file_name"].combine_chunks()
    codes = names.dictionary_encode().indices.to_numpy()
    first = np.zeros(len(names), dtype=bool)
    first[np.unique(codes, return_index=True)[1]] = True
    flags.report("duplicate-file-name", ~first, problems, lambda row: f"{names[row]}")


def _images(source: Source, header: Sizes, flags: Flags) -> pa.Table:
    listed = source.images
    ids = listed["image_id"] if source.has_ids else pa.array(np.arange(1, listed.num_rows + 1))
    sides = [pa.array(header[:, side], pa.int32(), mask=header[:, side] < 0) for side in (0, 1)]
    kept = ("file_name", "uri", "offset", "length", "split", "source_id", "bytes", "etag")
    given = {name: listed[name] for name in kept}
    columns = {**given, "image_id": ids, "width": sides[0], "height": sides[1], "flags": flags.column()}
    return pa.table([columns[field.name] for field in tables.IMAGES], schema=tables.IMAGES)


def _collect(source: Source, images: pa.Table, inspected: list[Inspected]) -> pa.Table:
    """Put the annotations of the one file and of the images' own files together, with ids."""
    own = pa.concat_tables([batch.annotations for batch in inspected] or [source.annotations.slice(0, 0)])
    if own.num_rows == 0:
        return source.annotations.combine_chunks()
    numbered = own.set_column(0, tables.ANNOTATIONS.field("annotation_id"), pa.array(np.arange(1, own.num_rows + 1)))
    owners = images["image_id"].take(own["image_id"])
    return numbered.set_column(1, tables.ANNOTATIONS.field("image_id"), owners).combine_chunks()


def _finish(annotations: pa.Table, images: pa.Table, sizes: Sizes, problems: Problems) -> pa.Table:
    """Draw polygons, fill in areas and check boxes."""
    flags = Flags(annotations["flags"])
    rows = pc.index_in(annotations["image_id"], value_set=images["image_id"].combine_chunks()).to_numpy()
    own_sizes = sizes[rows]
    drawn, areas = _draw(annotations, own_sizes, flags)
    spot = _describer(annotations, images, rows)
    _check_boxes(annotations, own_sizes, flags, problems, spot)
    for kind in ("bad-mask", "mask-of-another-size", "unreadable-box", "bad-polygon"):
        rows_of_kind = flags.rows(kind)
        problems.add(kind, len(rows_of_kind), (spot(int(row)) for row in rows_of_kind))
    box = _box_columns(annotations)
    areas = np.where(np.isnan(areas), box[:, 2] * box[:, 3], areas)
    new = {"segmentation": drawn, "flags": flags.column(), "area": pa.array(areas, from_pandas=True)}
    columns = [new.get(field.name, annotations[field.name]) for field in annotations.schema]
    return pa.table(columns, schema=annotations.schema)


def _flag_owners(images: pa.Table, annotations: pa.Table, kind: str) -> pa.Table:
    """Set the flag `kind` on the images of the annotations that carry it."""
    numbers = Flags(annotations["flags"]).rows(kind)
    if len(numbers) == 0:
        return images
    owners = annotations["image_id"].take(pa.array(numbers)).combine_chunks()
    flags = Flags(images["flags"])
    flags.mark(kind, pc.is_in(images["image_id"], value_set=owners).to_numpy())
    return images.set_column(images.schema.names.index("flags"), tables.IMAGES.field("flags"), flags.column())


def _draw(annotations: pa.Table, sizes: Sizes, flags: Flags) -> tuple[pa.ChunkedArray, Floats]:
    """Segmentations, polygons rasterized; areas as given, else of the mask, else NaN."""
    areas = annotations["area"].to_numpy().astype(np.float64)
    drawn: list[pa.Array] = []
    for first in range(0, annotations.num_rows, CHUNK):
        part = annotations.slice(first, CHUNK)
        found: list[dict[str, Any] | None] = part["segmentation"].to_pylist()
        for i, polygons in enumerate(part["polygons"].to_pylist()):
            width, height = sizes[first + i].tolist()
            if polygons and min(width, height) > 0:
                valid = masks.drawable(polygons)
                found[i] = _rasterized(valid, height, width) if valid else None
                if len(valid) < len(polygons):
                    flags.mark("bad-polygon" if valid else "bad-mask", np.array([first + i]))
            rle = found[i]
            if rle is not None and width > 0 and rle["size"] != [height, width]:
                flags.mark("mask-of-another-size", np.array([first + i]))
            if rle is not None and np.isnan(areas[first + i]):
                areas[first + i] = masks.area(masks.Rle(rle["size"][0], rle["size"][1], rle["counts"]))
        drawn.append(pa.array(found, tables.RLE))
    return pa.chunked_array(drawn, tables.RLE), areas


def _rasterized(polygons: Sequence[Sequence[float]], height: int, width: int) -> dict[str, Any]:
    return {"size": [height, width], "counts": masks.from_polygons(polygons, height, width).counts}


def _box_columns(annotations: pa.Table) -> Floats:
    """Boxes as (N, 4) x, y, width, height; NaN where there is none."""
    box = annotations["bbox"].combine_chunks()
    sides = [pc.struct_field(box, side).to_numpy(zero_copy_only=False) for side in ("x", "y", "width", "height")]
    return np.stack(sides, axis=1).astype(np.float64)


def _check_boxes(
    annotations: pa.Table, sizes: Sizes, flags: Flags, problems: Problems, spot: Callable[[int], str]
) -> None:
    boxes = _box_columns(annotations)
    given = annotations["bbox"].is_valid().to_numpy()
    x, y, width, height = boxes.T
    with np.errstate(invalid="ignore"):
        flat = given & ~(np.isfinite(boxes).all(axis=1) & (width > 0) & (height > 0))
        over = np.max([-x, -y, x + width - sizes[:, 0], y + height - sizes[:, 1]], axis=0, initial=-1.0)
        outside = given & (sizes > 0).all(axis=1) & (over > ROUNDING)
    flags.report("degenerate-box", flat, problems, lambda row: f"{spot(row)}: {boxes[row].tolist()}")
    flags.report(
        "box-outside-image",
        outside,
        problems,
        lambda row: f"{spot(row)}: {boxes[row].tolist()} in an image of {sizes[row][0]} x {sizes[row][1]}",
    )


def _describer(annotations: pa.Table, images: pa.Table, owners: npt.NDArray[np.int64]) -> Callable[[int], str]:
    """Say where the annotation of a row stands."""
    ids, names = annotations["annotation_id"], images["file_name"]
    return lambda row: f"annotation {ids[row]} of {names[int(owners[row])]}"
