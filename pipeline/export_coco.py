"""Tables back to COCO files: a run's results, and a dataset's instances; written piece by piece, whatever their size.

Formats: https://cocodataset.org/#format-results and https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from shardlens.pipeline import storage
from shardlens.pipeline.annotations.coco import to_coco
from shardlens.pipeline.annotations.frame import as_annotated, is_turned, to_upright
from shardlens.pipeline.errors import DatasetError, RunError, StorageError
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.runs import RunRecord

READ_AT_ONCE = 16
BATCH = 4096


@dataclass(frozen=True)
class ExportReport:
    """What was written."""

    uri: str
    rows: int
    left_out: int = 0
    """Predictions whose label is no category of the dataset: COCO has no way to write them."""


def export_coco(record: RunRecord, output: str) -> ExportReport:
    """Write a committed run as a COCO results file, a list of one object a row, numbers to the last bit.

    Boxes give image_id, category_id, bbox (x, y, width, height in pixels) and score; instances segmentation (compressed
    RLE) too; regions of a semantic model the same without bbox, as COCO stuff results have it.

    Raises:
        RunError: the run is not committed.
    """
    if record.commit is None:
        raise RunError(f"run {record.name!r} is not whole yet: give its command again, it resumes, then export it")
    counts = {True: 0, False: 0}

    def entries() -> Iterator[str]:
        for row in _predictions(record):
            known = row["category_id"] is not None
            counts[known] += 1
            if known:
                yield json.dumps(to_result(row))

    uri = _published(output, lambda file: _write_list(file, entries()))
    return ExportReport(uri, counts[True], counts[False])


def _predictions(record: RunRecord) -> Iterator[dict[str, Any]]:
    """Rows of the committed parts, shard by shard, in the frame of the dataset's annotations; a few are read at once."""
    images = _images_of(record)
    parts = record.prediction_parts()
    for start in range(0, len(parts), READ_AT_ONCE):
        for data in storage.read_many([(uri, None, None) for uri in parts[start : start + READ_AT_ONCE]]):
            if isinstance(data, StorageError):
                raise data
            table = tables.from_bytes(data)
            yield from _rows(table if images is None else to_upright(table, images))


def _images_of(record: RunRecord) -> pa.Table | None:
    """The dataset's images where its annotations were turned at ingest; None where they were not, or it is gone."""
    try:
        images = Dataset.open(record.warehouse, record.dataset, record.dataset_version).images
    except DatasetError:
        return None
    return images if is_turned(images) else None


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=BATCH):
        yield from batch.to_pylist()


def to_result(row: dict[str, Any]) -> dict[str, Any]:
    """Turn a row of the predictions table into an entry of a COCO results file."""
    result = {"image_id": row["image_id"], "category_id": row["category_id"]}
    if row["bbox"] is not None and row["kind"] != "region":
        result["bbox"] = [row["bbox"][side] for side in ("x", "y", "width", "height")]
    if row["segmentation"] is not None:
        result["segmentation"] = row["segmentation"]
    return {**result, "score": row["score"]}


def export_dataset(dataset: Dataset, output: str) -> ExportReport:
    """Write a dataset as a COCO instances file, all splits; rows without a category are left out.

    Images and annotations are in the frame in which the annotations came.
    """
    known = dataset.annotations.filter(dataset.annotations["category_id"].is_valid())
    if is_turned(dataset.images):
        known = to_upright(known, dataset.images)

    def write(file: IO[str]) -> None:
        info = {"description": f"{dataset.name}, version {dataset.version}"}
        file.write(f'{{"info": {json.dumps(info)},\n"images": ')
        _write_list(file, (json.dumps(_image(row)) for row in _rows(as_annotated(dataset.images))))
        file.write(',\n"categories": ')
        _write_list(file, (json.dumps(_category(row)) for row in _rows(dataset.categories)))
        file.write(',\n"annotations": ')
        _write_list(file, (json.dumps(to_coco(row)) for row in _rows(known)))
        file.write("}\n")

    uri = _published(output, write)
    return ExportReport(uri, known.num_rows, dataset.annotations.num_rows - known.num_rows)


def _image(row: dict[str, Any]) -> dict[str, Any]:
    return {"id": row["image_id"], **{key: row[key] for key in ("file_name", "width", "height")}}


def _category(row: dict[str, Any]) -> dict[str, Any]:
    above = {} if row["supercategory"] is None else {"supercategory": row["supercategory"]}
    return {"id": row["category_id"], "name": row["name"], **above}


def _write_list(file: IO[str], items: Iterable[str]) -> None:
    file.write("[")
    for number, item in enumerate(items):
        file.write(",\n" if number else "\n")
        file.write(item)
    file.write("\n]\n")


def _published(output: str, write: Callable[[IO[str]], None]) -> str:
    """Write into a file of this machine, then publish it whole."""
    uri = storage.normalize(output)
    with tempfile.TemporaryDirectory(prefix="shardlens-") as folder:
        path = Path(folder, "export.json")
        with path.open("w", encoding="utf-8") as file:
            write(file)
        storage.publish_file(uri, str(path))
    return uri
