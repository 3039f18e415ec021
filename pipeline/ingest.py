"""Ingest: images and annotations become a version of a dataset's tables, in the warehouse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, fields, replace
from functools import partial
from typing import Annotated, Any, get_args

from cyclopts import Parameter

from shardlens.pipeline import storage
from shardlens.pipeline.annotations import formats
from shardlens.pipeline.annotations.assembly import Assembled, assemble, choose_frame
from shardlens.pipeline.annotations.catalog import Catalog
from shardlens.pipeline.annotations.class_names import named
from shardlens.pipeline.annotations.duplicates import Twins, digest_table
from shardlens.pipeline.annotations.frame import AskedFrame, Frame
from shardlens.pipeline.annotations.inspection import deep_note, inspect
from shardlens.pipeline.annotations.label_scheme import MaskKind, MaskOptions, scheme_of
from shardlens.pipeline.annotations.problems import Problem
from shardlens.pipeline.annotations.publication import Publication, counts_of, other_images, split_counts
from shardlens.pipeline.annotations.selection import Selection, selected
from shardlens.pipeline.annotations.source import Format, Look, Request, Source
from shardlens.pipeline.annotations.splits import Part
from shardlens.pipeline.annotations.unchanged import Unchanged
from shardlens.pipeline.annotations.unlisted import Unlisted, with_unlisted
from shardlens.pipeline.annotations.unread import unread_notes
from shardlens.pipeline.errors import ConfigError, DatasetError
from shardlens.pipeline.executors.base import Executor, ProgressListener, no_progress
from shardlens.pipeline.images.policy import DecodePolicy
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import Warehouse, WarehouseRoot, check_name

__all__ = ["Annotated", "IngestConfig", "IngestReport", "MaskKind", "Parameter", "ingest", "refresh", "sources"]
"""Also the names in inherited fields, which the command line and the forms look up here."""

SHOWN = 5
"""Names of vanished images in a report."""


@dataclass(frozen=True)
class Places:
    """What to take in, and where to."""

    name: str
    """Name of the dataset in the warehouse."""
    _: KW_ONLY
    images: str
    """URI of the folder, prefix or tar that holds the images, or of a folder of tars."""
    annotations: str | None = None
    """URI of the annotation file or folder. Default: what lies in the images' folder, if anything does."""
    format: str = "auto"
    """Format of the annotations: coco, voc, masks or none. auto: detected from the files there; the report says why."""
    strict: bool = False
    """Write nothing if there is any problem; images that the annotations do not list are none."""
    warehouse: WarehouseRoot = "./warehouse"
    """URI of the tables' root."""
    frame: AskedFrame = "auto"
    """What the annotations of images with an EXIF orientation were drawn on: the upright image, as viewers show it, or the
    stored one; auto: what the sizes given with them tell, else upright. The tables are in the frame of the stored image."""
    unlisted: Unlisted | None = None
    """Images next to those that a COCO file lists: drop, or keep without annotations; default: drop, a schedule keeps them."""
    match_names: bool = False
    """Take the one file that a name of a COCO file could mean, of another case, other slashes, escapes or folders."""
    decode: Annotated[bool, Parameter(negative="")] = False
    """Decode the pixels of every image too, so that damaged ones are reported now; otherwise headers alone are read."""
    full: Annotated[bool, Parameter(negative="")] = False
    """Read the headers of all images again, also of those that have not changed since the latest version."""


@dataclass(frozen=True, kw_only=True)
class IngestConfig(MaskOptions, Selection, Places):
    """What to take in, as what, and how mask images are read."""

    @property
    def decode_policy(self) -> DecodePolicy | None:
        """How images are decoded; None if they are not."""
        return DecodePolicy() if self.decode else None

    def __post_init__(self) -> None:
        Selection.__post_init__(self)
        MaskOptions.__post_init__(self)
        check_name(self.name, "dataset")
        if self.frame not in get_args(AskedFrame):
            raise ConfigError(f"frame {self.frame!r}: expected {', '.join(get_args(AskedFrame))}")
        if self.split is not None:
            check_name(self.split, "split")
        if self.format != "auto":
            formats.find(self.format)


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
    """Images of each split of the complete dataset; the key of those without a split is empty."""
    problems: tuple[Problem, ...]
    frame: Frame = "stored"
    """Frame of the annotations, as they came."""
    format: str = ""
    """Name of the annotations' format."""
    reason: str = ""
    """Why this format was taken."""
    notes: tuple[str, ...] = ()
    """What was decided about the data, and what lies there and was not read; a sentence each."""
    unchanged: int = 0
    """Images whose headers were not read, since they have not changed since the version before."""
    vanished: int = 0
    """Images that the version before had and this one has not."""
    vanished_names: tuple[str, ...] = ()
    """Some of them."""

    def __str__(self) -> str:
        held = ", ".join(f"{name or '(no split)'} {count}" for name, count in self.splits.items())
        lines = [
            f"format {self.format}: {self.reason}",
            f"{self.dataset}@{self.version}: {self.images} images, {self.annotations} annotations "
            f"({self.crowds} crowds), {self.categories} categories",
            f"images in the dataset: {held}",
            *([f"not read again: {self.unchanged} images that have not changed"] if self.unchanged else []),
            *self._gone(),
            *self.notes,
            *(str(problem) for problem in self.problems),
        ]
        return "\n".join(lines if self.problems else [*lines, "no problems found"])

    def _gone(self) -> list[str]:
        more = ", ..." if self.vanished > len(self.vanished_names) else ""
        named = ", ".join(self.vanished_names)
        return [f"no longer there: {self.vanished} images ({named}{more})"] if self.vanished else []


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
        warehouse.create()  # writes nothing here; a place that is no warehouse is reported before the work
    request = _request(config)
    format, reason = _format(config, Look(request, executor))
    others = partial(other_images, warehouse, config.name, config.split)
    source = with_unlisted(format.reader(request, executor), config.unlisted or "drop", others)
    source = _marked(selected(source, config, request), request)
    for kind, text in request.catalog.problems:
        source.problems.one(kind, text)
    unchanged = Unchanged.none(source.images.num_rows)
    if not config.full and not config.decode:
        unchanged = Unchanged.since_latest(source.images, warehouse, config.name)
    inspected = inspect(source, executor, progress, config.decode_policy, unchanged)
    choice = choose_frame(config.frame, source, inspected)
    content = assemble(source, inspected, source.problems, choice.frame)
    digests = digest_table(source.images, inspected)
    names = content.images["file_name"].to_pylist()
    Twins.among(content.images, digests, executor).report(names, source.problems)
    chosen = [note for note in (choice.note, deep_note(inspected), unchanged.note()) if note]
    notes = (*source.problems.notes, *chosen, *unread_notes(request, source, executor))
    part = Part(
        f"{request.annotations or request.images} (split {config.split})",
        content,
        source.has_ids,
        source.has_category_ids,
    )
    about = {"format": format.name, "frame": choice.frame}
    record = {**_record(config, request, source, content), **about}
    publication = Publication(warehouse, config.name, part, digests, source.problems, notes, config.strict)
    published = publication.into_latest(record, executor)
    return IngestReport(
        config.name,
        published.version,
        **counts_of(content),
        splits=split_counts(published.content.images),
        problems=published.problems,
        frame=choice.frame,
        format=format.name,
        reason=reason,
        notes=published.notes,
        unchanged=int(unchanged.known.sum()),
        vanished=len(published.vanished),
        vanished_names=published.vanished[:SHOWN],
    )


def _marked(source: Source, request: Request) -> Source:
    """Fill in the bytes and etags of the images."""
    images = source.images
    for name, column in zip(("bytes", "etag"), request.catalog.marks.of(images), strict=True):
        index = images.schema.get_field_index(name)
        images = images.set_column(index, images.schema.field(index), column)
    return replace(source, images=images)


def _request(config: IngestConfig) -> Request:
    """What the reader is asked for."""
    return Request(
        storage.normalize(config.images),
        None if config.annotations is None else storage.normalize(config.annotations),
        config.split if not config.holdout else None,
        named(config.classes),
        config.mask_kind,
        config.mask_pattern,
        scheme_of(config),
        Catalog(config.follow_links),
        config.match_names,
    )


def _format(config: IngestConfig, look: Look) -> tuple[Format, str]:
    """The format that is asked for or recognized, and why."""
    if config.format == "auto":
        format, reason = formats.detect(look)
    else:
        format, reason = formats.find(config.format), "as --format says"
    if config.asked() and format.name != "masks":
        raise ConfigError(
            f"{', '.join(config.asked())} is for mask images, but the annotations are of the format {format.name} ({reason})"
        )
    return format, reason


def _record(config: IngestConfig, request: Request, source: Source, content: Assembled) -> dict[str, Any]:
    """What `dataset.json` says of an ingest."""
    splits = sorted(content.images["split"].unique().to_pylist(), key=lambda split: split or "")
    return {
        "asked": _asked(config, request),
        "gave": splits,
        "splits": splits,
        "images": request.images,
        "annotations": request.annotations,
        "has_ids": source.has_ids,
        "has_category_ids": source.has_category_ids,
        "ids": dict(source.id_kinds),
    }


def _asked(config: IngestConfig, request: Request) -> dict[str, Any]:
    """The settings in words that hold in any folder and warehouse: `refresh` asks the same again."""
    files = {name: value for name in ("image_list", "label_map") if (value := getattr(config, name)) is not None}
    if config.classes is not None and config.classes.endswith((".txt", ".names")):
        files["classes"] = config.classes
    places = {"images": request.images, "annotations": request.annotations}
    asked = {**asdict(config), **places, **{name: storage.normalize(uri) for name, uri in files.items()}}
    return {name: value for name, value in asked.items() if name not in {"warehouse", "full"}}


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
    unknown = source["asked"].keys() - {each.name for each in fields(IngestConfig)}
    if unknown:
        raise DatasetError(
            f"dataset {dataset.name} was ingested with the settings {', '.join(sorted(unknown))}, which this version of "
            "Shardlens does not know: update Shardlens, or ingest the dataset again under another name"
        )
    return IngestConfig(**source["asked"], warehouse=warehouse)


def _listed(splits: list[str | None]) -> str:
    return ", ".join(split or "(no name)" for split in splits)


def refresh(
    warehouse: str, name: str, executor: Executor, progress: ProgressListener = no_progress
) -> list[IngestReport]:
    """Repeat the ingests that a dataset is made of; where nothing changed, its version stays.

    Images that are new in the folder of a COCO file, which does not list them, are kept unless the ingest dropped them.

    Raises:
        ShardlensError: see `sources` and `shardlens.pipeline.ingest.ingest`.
    """
    configs = [replace(config, unlisted=config.unlisted or "keep") for config in sources(warehouse, name)]
    return [ingest(config, executor, progress) for config in configs]
