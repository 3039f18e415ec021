"""Tables back to COCO files: a run's results, and a dataset's instances; written piece by piece, whatever their size.

Formats: https://cocodataset.org/#format-results and https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline import storage
from shardlens.pipeline.annotations import own_ids
from shardlens.pipeline.annotations.coco import stuff_categories, to_coco
from shardlens.pipeline.annotations.frame import as_annotated, is_turned, to_upright
from shardlens.pipeline.annotations.own_ids import OwnId
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
    mine = _OwnIds.of(dataset, chosen.split or record.settings.get("split"))

    def entries() -> Iterator[str]:
        for row in _predictions(record, images):
            fate = "not chosen" if not wanted(row) else "unnamed" if row["category_id"] is None else "written"
            counts[fate] += 1
            if fate == "written":
                yield json.dumps(mine.entry(to_result(row)))

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


@dataclass(frozen=True)
class _OwnIds:
    """The ids that the dataset's own file has, by those of the tables."""

    images: Mapping[int, OwnId] = field(default_factory=dict)
    categories: Mapping[int, OwnId] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Dataset | None, split: str | None = None) -> _OwnIds:
        """Those of a dataset's images, or of one split's.

        Raises:
            ConfigError: several of the images have the same own id.
        """
        if dataset is None:
            return cls()
        images = dataset.images if split is None else dataset.images.filter(pc.equal(dataset.images["split"], split))
        ids = own_ids.of_images(images, dataset.document)
        _refuse_repeated(ids, "image", images, dataset.name)
        numbers = images["image_id"].to_pylist(), dataset.categories["category_id"].to_pylist()
        categories = own_ids.of_categories(dataset.categories)
        return cls(dict(zip(numbers[0], ids, strict=True)), dict(zip(numbers[1], categories, strict=True)))

    def entry(self, entry: dict[str, Any]) -> dict[str, Any]:
        """A result or an annotation under its own ids."""
        image, category = entry["image_id"], entry["category_id"]
        own = {"image_id": self.images.get(image, image), "category_id": self.categories.get(category, category)}
        return {**entry, **own}


def _refuse_repeated(ids: Sequence[OwnId], kind: str, images: pa.Table, dataset: str) -> None:
    """Refuse to write two images or annotations under one id.

    Args:
        images: of each id, its image.
    """
    for own, rows in own_ids.repeated(ids).items():
        one, other = (images.slice(row, 1).to_pylist()[0] for row in rows[:2])
        raise ConfigError(
            f"{kind} id {own} of dataset {dataset} is in the files of several splits, such as of {_spot(one)} and of "
            f"{_spot(other)}: a COCO file has each id once; export one split at a time (--split)"
        )


def _spot(image: dict[str, Any]) -> str:
    return f"{image['file_name']} ({image['split'] or 'no split'})"


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


def export_dataset(dataset: Dataset, output: str, split: str | None = None) -> ExportReport:
    """Write a dataset as a COCO instances file, or one split of it; rows without a category are left out.

    Images and annotations are in the frame in which the annotations came, under the ids of their own files, as numbers or
    text as these have them. Of masks, regions carry a key `kind`, and categories that have regions alone are no things
    (`isthing`: 0).

    Raises:
        ConfigError: images of several splits have the same own id.
    """
    images, annotations = _of_split(dataset, split)
    known = annotations.filter(annotations["category_id"].is_valid())
    if is_turned(images):
        known = to_upright(known, images)
    mine, stuff = _OwnIds.of(dataset, split), stuff_categories(known)
    ids = own_ids.of_annotations(known, images, dataset.document)
    owners = pc.index_in(known["image_id"], value_set=images["image_id"].combine_chunks())
    _refuse_repeated(ids, "annotation", images.take(owners), dataset.name)
    categories = zip(_rows(dataset.categories), own_ids.of_categories(dataset.categories), strict=True)

    def write(file: IO[str]) -> None:
        info = {"description": f"{dataset.name}, version {dataset.version}"}
        file.write(f'{{"info": {json.dumps(info)},\n"images": ')
        _write_list(file, (json.dumps(_image(row, mine)) for row in _rows(as_annotated(images))))
        file.write(',\n"categories": ')
        _write_list(file, (json.dumps(_category(row, own, stuff)) for row, own in categories))
        file.write(',\n"annotations": ')
        notes = zip(_rows(known), ids, strict=True)
        _write_list(file, (json.dumps({**mine.entry(to_coco(row)), "id": own}) for row, own in notes))
        file.write("}\n")

    uri = _published(output, write)
    return ExportReport(uri, known.num_rows, annotations.num_rows - known.num_rows)


def _of_split(dataset: Dataset, split: str | None) -> tuple[pa.Table, pa.Table]:
    """Images and annotations of a split; None = of all."""
    if split is None:
        return dataset.images, dataset.annotations
    images = dataset.images.filter(pc.equal(dataset.images["split"], split)).combine_chunks()
    mine = pc.is_in(dataset.annotations["image_id"], value_set=images["image_id"].combine_chunks())
    return images, dataset.annotations.filter(mine)


def _image(row: dict[str, Any], mine: _OwnIds) -> dict[str, Any]:
    return {"id": mine.images[row["image_id"]], **{key: row[key] for key in ("file_name", "width", "height")}}


def _category(row: dict[str, Any], own: OwnId, stuff: frozenset[int]) -> dict[str, Any]:
    above = {} if row["supercategory"] is None else {"supercategory": row["supercategory"]}
    no_thing = {"isthing": 0} if row["category_id"] in stuff else {}
    return {"id": own, "name": row["name"], **above, **no_thing}


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
