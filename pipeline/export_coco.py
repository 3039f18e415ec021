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
import pyarrow.compute as pc

from shardlens.pipeline import storage
from shardlens.pipeline.annotations.coco import stuff_categories, to_coco
from shardlens.pipeline.annotations.frame import as_annotated, is_turned, to_upright
from shardlens.pipeline.errors import ConfigError, DatasetError, RunError, StorageError
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.runs import RunRecord

READ_AT_ONCE = 16
BATCH = 4096


@dataclass(frozen=True)
class Chosen:
    """Which predictions of a run are exported; all by default."""

    score_threshold: float = 0.0
    """Lowest score of a prediction that is written."""
    split: str | None = None
    """Write predictions of this split alone; default: all images."""
    where: str | None = None
    """SQL condition on the columns of `predictions`, such as "category = 'person' AND area > 1024"."""

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold <= 1:
            raise ConfigError(f"score threshold {self.score_threshold}: expected a number from 0 to 1")


@dataclass(frozen=True)
class ExportReport:
    """What was written."""

    uri: str
    rows: int
    left_out: int = 0
    """Predictions whose label is no category of the dataset: COCO has no way to write them."""
    not_chosen: int = 0
    """Predictions below the threshold, of another split, or that do not meet the condition."""


def export_coco(record: RunRecord, output: str, chosen: Chosen = Chosen()) -> ExportReport:
    """Write a committed run as a COCO results file, a list of one object a row, numbers to the last bit.

    Boxes give image_id, category_id, bbox (x, y, width, height in pixels) and score; instances segmentation (compressed
    RLE) too; regions of a semantic model the same without bbox, as COCO stuff results have it. Ids are those of the
    dataset's own annotation file, also where they are text.

    Raises:
        RunError: the run is not committed.
        ConfigError: the dataset has no such split.
        QueryError: the condition is not SQL.
    """
    if record.commit is None:
        raise RunError(f"run {record.name!r} is not complete: rerun its command (it resumes), then export it")
    counts = {"written": 0, "unnamed": 0, "not chosen": 0}
    dataset = _dataset_of(record)
    images = None if dataset is None else dataset.images
    wanted = _choice(record, images, chosen)
    own_ids = _own_ids(dataset)

    def entries() -> Iterator[str]:
        for row in _predictions(record, images):
            fate = "not chosen" if not wanted(row) else "unnamed" if row["category_id"] is None else "written"
            counts[fate] += 1
            if fate == "written":
                yield json.dumps(own_ids(to_result(row)))

    uri = _published(output, lambda file: _write_list(file, entries()))
    return ExportReport(uri, counts["written"], counts["unnamed"], counts["not chosen"])


def _choice(record: RunRecord, images: pa.Table | None, chosen: Chosen) -> Callable[[dict[str, Any]], bool]:
    """Whether a row of the predictions is to be written."""
    in_split = None if chosen.split is None else _split_ids(record, images, chosen.split)
    met = None if chosen.where is None else _meeting(record, chosen.where)

    def wanted(row: dict[str, Any]) -> bool:
        if row["score"] < chosen.score_threshold or (in_split is not None and row["image_id"] not in in_split):
            return False
        return met is None or (row["image_id"], row["rank"]) in met

    return wanted


def _split_ids(record: RunRecord, images: pa.Table | None, split: str) -> set[int]:
    if images is None:
        raise ConfigError(
            f"split {split!r}: dataset {record.dataset} of run {record.name} is not in the warehouse any more"
        )
    ids = images.filter(pc.equal(images["split"], split))["image_id"].to_pylist()
    if not ids:
        known = ", ".join(sorted({name for name in images["split"].unique().to_pylist() if name})) or "none"
        raise ConfigError(f"dataset {record.dataset} has no split {split!r}: it has {known}")
    return set(ids)


def _meeting(record: RunRecord, where: str) -> set[tuple[int, int]]:
    """Image and rank of the run's predictions that meet an SQL condition."""
    from shardlens.pipeline.query import query  # DuckDB takes half a second to import

    sql = f"SELECT image_id, rank FROM (SELECT * FROM predictions WHERE run = '{record.name}') WHERE ({where}\n)"
    rows = query(record.warehouse.root, sql)
    return set(zip(rows["image_id"].to_pylist(), rows["rank"].to_pylist(), strict=True))


def _dataset_of(record: RunRecord) -> Dataset | None:
    try:
        return Dataset.open(record.warehouse, record.dataset, record.dataset_version)
    except DatasetError:
        return None


def _own_ids(dataset: Dataset | None) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Give an entry the ids that the dataset's own file has, where these are text."""
    if dataset is None:
        return lambda entry: entry
    texts = {"image_id": source_ids(dataset.images, "image_id")}
    texts["category_id"] = source_ids(dataset.categories, "category_id")
    if not any(texts.values()):
        return lambda entry: entry
    return lambda entry: {**entry, **{key: texts[key].get(entry[key], entry[key]) for key in texts}}


def source_ids(table: pa.Table, column: str) -> dict[int, str]:
    """The text that the dataset's own file has for an id, by the number of it."""
    name = tables.SOURCE_ID.name
    if name not in table.schema.names:
        return {}
    pairs = zip(table[column].to_pylist(), table[name].to_pylist(), strict=True)
    return {number: text for number, text in pairs if text is not None}


def _predictions(record: RunRecord, images: pa.Table | None) -> Iterator[dict[str, Any]]:
    """Rows of the committed parts, shard by shard, in the frame of the dataset's annotations; a few are read at once."""
    turned = images if images is not None and is_turned(images) else None
    parts = record.prediction_parts()
    for start in range(0, len(parts), READ_AT_ONCE):
        for data in storage.read_many([(uri, None, None) for uri in parts[start : start + READ_AT_ONCE]]):
            if isinstance(data, StorageError):
                raise data
            table = tables.from_bytes(data)
            yield from _rows(table if turned is None else to_upright(table, turned))


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

    Images and annotations are in the frame in which the annotations came, and ids that were text are text again. Of
    masks, regions carry a key `kind`, and categories that have regions alone are no things (`isthing`: 0).
    """
    known = dataset.annotations.filter(dataset.annotations["category_id"].is_valid())
    if is_turned(dataset.images):
        known = to_upright(known, dataset.images)

    own_ids, annotation_ids = _own_ids(dataset), source_ids(known, "annotation_id")
    stuff = stuff_categories(known)

    def note(row: dict[str, Any]) -> dict[str, Any]:
        entry = own_ids(to_coco(row))
        return {**entry, "id": annotation_ids.get(entry["id"], entry["id"])}

    def write(file: IO[str]) -> None:
        info = {"description": f"{dataset.name}, version {dataset.version}"}
        file.write(f'{{"info": {json.dumps(info)},\n"images": ')
        _write_list(file, (json.dumps(_image(row)) for row in _rows(as_annotated(dataset.images))))
        file.write(',\n"categories": ')
        _write_list(file, (json.dumps(_category(row, stuff)) for row in _rows(dataset.categories)))
        file.write(',\n"annotations": ')
        _write_list(file, (json.dumps(note(row)) for row in _rows(known)))
        file.write("}\n")

    uri = _published(output, write)
    return ExportReport(uri, known.num_rows, dataset.annotations.num_rows - known.num_rows)


def _image(row: dict[str, Any]) -> dict[str, Any]:
    number = row.get("source_id") or row["image_id"]
    return {"id": number, **{key: row[key] for key in ("file_name", "width", "height")}}


def _category(row: dict[str, Any], stuff: frozenset[int]) -> dict[str, Any]:
    above = {} if row["supercategory"] is None else {"supercategory": row["supercategory"]}
    no_thing = {"isthing": 0} if row["category_id"] in stuff else {}
    return {"id": row.get("source_id") or row["category_id"], "name": row["name"], **above, **no_thing}


def _write_list(file: IO[str], items: Iterable[str]) -> None:
    file.write("[")
    for number, item in enumerate(items):
        file.write(",\n" if number else "\n")
        file.write(item)
    file.write("\n]\n")


def _published(output: str, write: Callable[[IO[str]], None]) -> str:
    """Write into a file of this machine, then publish it atomically."""
    uri = storage.normalize(output)
    with tempfile.TemporaryDirectory(prefix="shardlens-") as folder:
        path = Path(folder, "export.json")
        with path.open("w", encoding="utf-8") as file:
            write(file)
        storage.publish_file(uri, str(path))
    return uri
