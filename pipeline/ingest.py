"""Datasets: taking images and annotations into versioned tables, and opening them again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any, get_args

import pyarrow as pa
import pyarrow.compute as pc

from shardlens.pipeline import storage
from shardlens.pipeline.annotations.assembly import Assembled, assemble, choose_frame
from shardlens.pipeline.annotations.categories import named
from shardlens.pipeline.annotations.formats import READERS, detect
from shardlens.pipeline.annotations.frame import AskedFrame, Frame
from shardlens.pipeline.annotations.inspection import deep_note, inspect
from shardlens.pipeline.annotations.problems import Problem
from shardlens.pipeline.annotations.source import MaskKind, Request
from shardlens.pipeline.annotations.splits import Part, merge, of_splits
from shardlens.pipeline.errors import ConfigError, DatasetError
from shardlens.pipeline.executors.base import Executor, ProgressListener, no_progress
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.datasets import PARTS, Dataset, advance, latest, version_of
from shardlens.pipeline.warehouse.layout import Warehouse, WarehouseRoot, check_name, to_json


@dataclass(frozen=True)
class IngestConfig:
    """What to take in, and as what."""

    name: str
    """Name of the dataset in the warehouse."""
    _: KW_ONLY
    images: str
    """URI of the folder, prefix or tar that holds the images, or of a folder of tars."""
    annotations: str | None = None
    """URI of the annotation file or folder; none = images alone, or annotations beside them."""
    format: str = "auto"
    """Format of the annotations: auto, coco, voc, masks or none."""
    split: str | None = None
    """Name of the split that the images form, such as train or val; its split is replaced, the others are kept."""
    strict: bool = False
    """Take nothing in if there is any problem."""
    warehouse: WarehouseRoot = "./warehouse"
    """URI of the tables' root."""
    mask_kind: MaskKind = "auto"
    """What the pixels of mask images are: class ids (semantic) or instance ids."""
    classes: str | None = None
    """Names of the categories 1, 2, ...: comma-separated, or the URI of a .txt or .names file with one a line."""
    frame: AskedFrame = "auto"
    """What the annotations of images with an EXIF orientation were drawn on: the upright image, as viewers show it, or the
    stored one; auto: what the sizes given with them tell, else upright. The tables are in the frame of the stored image."""

    def __post_init__(self) -> None:
        check_name(self.name, "dataset")
        if self.frame not in get_args(AskedFrame):
            raise ConfigError(f"frame {self.frame!r}: expected {', '.join(get_args(AskedFrame))}")
        if self.split is not None:
            check_name(self.split, "split")
        if self.format != "auto" and self.format not in READERS:
            raise ConfigError(f"annotation format {self.format!r}: expected auto or one of {', '.join(READERS)}")


@dataclass(frozen=True)
class IngestReport:
    """What an ingest took in."""

    dataset: str
    version: str
    images: int
    annotations: int
    crowds: int
    categories: int
    splits: dict[str, int]
    """Images of each split of the whole dataset; the key of those without a split is empty."""
    problems: tuple[Problem, ...]
    frame: Frame = "stored"
    """Frame of the annotations, as they came."""
    notes: tuple[str, ...] = ()
    """What was decided for the dataset, in sentences."""

    def __str__(self) -> str:
        held = ", ".join(f"{name or '(no split)'} {count}" for name, count in self.splits.items())
        lines = [
            f"{self.dataset}@{self.version}: {self.images} images, {self.annotations} annotations "
            f"({self.crowds} crowds), {self.categories} categories",
            f"images in the dataset: {held}",
            *self.notes,
            *(str(problem) for problem in self.problems),
        ]
        return "\n".join(lines if self.problems else [*lines, "no problems found"])


def ingest(config: IngestConfig, executor: Executor, progress: ProgressListener = no_progress) -> IngestReport:
    """Take images and annotations into a new version of the dataset, reading headers through `executor`.

    The splits that they form replace those of the same name; the dataset's other splits stay.

    Raises:
        DatasetError: nothing can be made of them, they clash with the other splits, or `strict` and a problem.
        ConfigError: settings that do not go together.
        StorageError: a place that cannot be read or written.
    """
    warehouse = Warehouse(config.warehouse)
    if storage.children(warehouse.root):
        warehouse.create()  # writes nothing here; a place that is no warehouse is told before the work
    request, form = _request(config)
    source = READERS[form](request, executor)
    inspected = inspect(source, executor, progress)
    choice = choose_frame(config.frame, source, inspected)
    content = assemble(source, inspected, source.problems, choice.frame)
    problems = source.problems.found()
    notes = [note for note in (choice.note, deep_note(inspected)) if note]
    if config.strict and problems:
        raise DatasetError(_refusal(request.images, problems))
    splits = sorted(content.images["split"].unique().to_pylist(), key=lambda split: split or "")
    part = Part(
        f"{request.annotations or request.images} (split {config.split})",
        content,
        source.has_ids,
        source.has_category_ids,
    )
    record = {
        "asked": _asked(config, request),
        "gave": splits,
        "splits": splits,
        "format": form,
        "images": request.images,
        "annotations": request.annotations,
        "has_ids": source.has_ids,
        "has_category_ids": source.has_category_ids,
        "problems": [asdict(problem) for problem in problems],
        "frame": choice.frame,
        "notes": notes,
    }
    version, merged = _into_latest(warehouse, config.name, part, record)
    return _report(config.name, version, content, merged, record, problems)


def _into_latest(warehouse: Warehouse, name: str, part: Part, record: dict[str, Any]) -> tuple[str, Assembled]:
    """Merge what was read into the latest version and publish that; again, if another ingest published one meanwhile."""
    while True:
        pointer = latest(warehouse, name)
        others = list(_kept(warehouse, name, record, pointer))
        merged = merge([*(kept for kept, _ in others), part])
        warehouse.create()
        records = [*(kept for _, kept in others), record]
        version = write_version(
            warehouse, name, merged, sorted(records, key=lambda each: [split or "" for split in each["splits"]])
        )
        if advance(warehouse, name, pointer, version):
            return version, merged


def _request(config: IngestConfig) -> tuple[Request, str]:
    """What the reader is asked for, and its format."""
    images = storage.normalize(config.images)
    beside = None if config.annotations is None else storage.normalize(config.annotations)
    form = detect(images, beside) if config.format == "auto" else config.format
    if config.mask_kind != "auto" and form != "masks":
        raise ConfigError(f"the mask kind {config.mask_kind} was given, but the annotations are of the format {form}")
    return Request(images, beside, config.split, config.mask_kind, named(config.classes)), form


def _asked(config: IngestConfig, request: Request) -> dict[str, Any]:
    """The settings in words that hold in any folder and warehouse: `shardlens.pipeline.refresh` asks the same again."""
    classes = config.classes
    if classes is not None and classes.endswith((".txt", ".names")):
        classes = storage.normalize(classes)
    asked = {**asdict(config), "images": request.images, "annotations": request.annotations, "classes": classes}
    return {name: value for name, value in asked.items() if name != "warehouse"}


def _refusal(images: str, problems: tuple[Problem, ...]) -> str:
    listed = "\n".join(map(str, problems))
    return (
        f"{images}: {len(problems)} kinds of problems were found and --strict was given, so nothing was written; "
        f"mend them or leave --strict out\n{listed}"
    )


def _kept(
    warehouse: Warehouse, name: str, new: dict[str, Any], pointer: bytes | None
) -> Iterator[tuple[Part, dict[str, Any]]]:
    """What stays of the version that `pointer` names: the splits that are not replaced, by their sources."""
    if pointer is None:
        return
    before = Dataset.open(warehouse, name, version_of(warehouse, name, pointer))
    for source in before.document["sources"]:
        splits = [split for split in source["splits"] if split not in new["splits"]]
        if splits and not _is_renamed(source, new):
            content = of_splits(Assembled(before.images, before.annotations, before.categories), splits)
            where = f"{source['annotations'] or source['images']} (split {splits[0]})"
            yield Part(where, content, source["has_ids"], source["has_category_ids"]), {**source, "splits": splits}


def _is_renamed(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether the same images and annotations come again, once with a split's name and once without."""
    same = (old["images"], old["annotations"]) == (new["images"], new["annotations"])
    return same and [None] in (old["splits"], new["splits"])


def _split_counts(images: pa.Table) -> dict[str, int]:
    counts = Counter(split or "" for split in images["split"].to_pylist())
    return dict(sorted(counts.items()))


def _report(
    name: str,
    version: str,
    content: Assembled,
    merged: Assembled,
    record: Mapping[str, Any],
    problems: tuple[Problem, ...],
) -> IngestReport:
    return IngestReport(
        dataset=name,
        version=version,
        **_counts(content),
        splits=_split_counts(merged.images),
        problems=problems,
        frame=record["frame"],
        notes=tuple(record["notes"]),
    )


def _counts(content: Assembled) -> dict[str, Any]:
    return {
        "images": content.images.num_rows,
        "annotations": content.annotations.num_rows,
        "crowds": pc.sum(content.annotations["iscrowd"]).as_py() or 0,
        "categories": content.categories.num_rows,
    }


def write_version(warehouse: Warehouse, name: str, content: Assembled, sources: list[dict[str, Any]]) -> str:
    """Write a version, not yet the latest; the same content again is the same version.

    Returns:
        The version.
    """
    parts = {part: tables.to_bytes(getattr(content, part)) for part in PARTS}
    # digested as read back: what lies under a null differs by how a table was made
    version = tables.digest(*(tables.from_bytes(data) for data in parts.values()))[:12]
    root = warehouse.dataset(name, version)
    for part, data in parts.items():
        storage.publish(storage.join(root, f"{part}.parquet"), data)
    document = {
        "name": name,
        "version": version,
        **_counts(content),
        "splits": [{"split": split or None, "images": count} for split, count in _split_counts(content.images).items()],
        "category_names": content.categories["name"].to_pylist(),
        "sources": sources,
    }
    storage.publish(storage.join(root, "dataset.json"), to_json(document))
    return version


def sources(warehouse: str, name: str) -> list[IngestConfig]:
    """The settings of the ingests that a dataset is made of.

    Raises:
        DatasetError: there is no such dataset, or an ingest cannot be repeated without undoing another.
    """
    dataset = Dataset.open(Warehouse(warehouse), name)
    return [_settings(dataset, source, warehouse) for source in dataset.document["sources"]]


def _settings(dataset: Dataset, source: Mapping[str, Any], warehouse: str) -> IngestConfig:
    if source["gave"] != source["splits"]:
        raise DatasetError(
            f"dataset {dataset.name} cannot be taken in again by itself: {source['images']} gave the splits "
            f"{_listed(source['gave'])}, of which only {_listed(source['splits'])} are still in use, the others were "
            "replaced. Ingest each split on its own (--split), or predict the dataset as it is"
        )
    return IngestConfig(**source["asked"], warehouse=warehouse)


def _listed(splits: list[str | None]) -> str:
    return ", ".join(split or "(no name)" for split in splits)


def refresh(
    warehouse: str, name: str, executor: Executor, progress: ProgressListener = no_progress
) -> list[IngestReport]:
    """Repeat the ingests that a dataset is made of; where nothing changed, its version stays.

    Raises:
        ShardlensError: see `sources` and `shardlens.pipeline.ingest.ingest`.
    """
    return [ingest(config, executor, progress) for config in sources(warehouse, name)]
