"""Show images of a dataset with their annotations, or of a run with its predictions, drawn on one PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from cyclopts import Parameter

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError, DatasetError
from shardlens.pipeline.images.decode import ensure_decoded
from shardlens.pipeline.images.drawing import PALETTE, draw, png, scaled, sheet, upright
from shardlens.pipeline.images.fetch import Decoding, load
from shardlens.pipeline.images.policy import DecodePolicy
from shardlens.pipeline.images.shards import Failure, plan
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.datasets import Dataset, list_datasets
from shardlens.pipeline.warehouse.layout import Warehouse, WarehouseRoot


@dataclass(frozen=True)
class ShowConfig:
    """Which images to draw, and how."""

    name: str
    """Name of a dataset, whose annotations are drawn, or of a committed run, whose predictions are."""
    image: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """File names or image ids; default: --sample images, evenly spread over the dataset or the run."""
    _: KW_ONLY
    output: str | None = None
    """URI of the PNG to write; default: NAME.png in the current folder."""
    sample: int = 6
    """How many images to draw where none is named."""
    min_score: float = 0.5
    """Predictions below this score are not drawn."""
    columns: int = 3
    """Images in a row."""
    width: int = 320
    """Pixels that each image is wide on the picture."""
    warehouse: WarehouseRoot = "./warehouse"
    """Root of the tables."""

    def __post_init__(self) -> None:
        for name in ("sample", "columns", "width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected 1 or more")
        if math.isnan(self.min_score):
            raise ConfigError("min_score is nan: expected a score, such as 0.5")


MAX_PIXELS = 200_000_000


@dataclass(frozen=True)
class ShowReport:
    """What was drawn."""

    uri: str
    images: tuple[str, ...]
    """File names, in the order of the picture."""
    objects: int
    unreadable: tuple[str, ...] = ()
    """Images that could not be read, and why; they are not on the picture."""


@dataclass(frozen=True)
class _Subject:
    """Images that may be drawn, and the rows that lie on them."""

    images: pa.Table
    rows: pa.Table
    categories: list[str]


def show(config: ShowConfig) -> ShowReport:
    """Draw images with their boxes, masks and labels, and publish the picture.

    Raises:
        DatasetError: there is no such dataset, run or image, or none of the images can be read.
        ConfigError: the picture would be too large.
        RunError: the run is not complete.
    """
    subject = _subject(config)
    chosen = _chosen(config, subject.images)
    _check_size(chosen, config)
    ids = chosen["image_id"]
    rows = subject.rows.filter(pc.is_in(subject.rows["image_id"], value_set=pa.array(ids.to_pylist()))).to_pylist()
    pictures, names, failures = [], [], []
    (images,) = (shard.images for shard in plan(chosen, max(1, chosen.num_rows)))
    for image, decoded in load(images, Decoding(DecodePolicy())):
        if isinstance(decoded, Failure):
            failures.append(decoded.message)
            continue
        full = ensure_decoded(decoded)
        own = [row for row in rows if row["image_id"] == image.image_id]
        drawn = [upright(row, full, _label(row), _color(row, subject.categories)) for row in _largest_first(own)]
        pictures.append(draw(full.pixels, drawn, config.width))
        names.append(image.file_name)
    if not pictures:
        raise DatasetError(f"none of the {len(images)} images can be read: {failures[0]}")
    uri = storage.normalize(config.output or f"{config.name}.png")
    storage.publish(uri, png(sheet(pictures, names, config.columns)))
    return ShowReport(uri, tuple(names), len(rows), tuple(failures))


def _check_size(images: pa.Table, config: ShowConfig) -> None:
    """Refuse a picture that needs more memory than a laptop has to spare."""
    sides = zip(*(images[side].to_pylist() for side in ("height", "width")), strict=True)
    sizes = [scaled(height or 1, width or 1, config.width)[0] for height, width in sides]
    pixels = sum(width * height for width, height in sizes)
    if pixels > MAX_PIXELS:
        raise ConfigError(
            f"{len(sizes)} images {config.width} pixels wide make a picture of {pixels / 1e6:,.0f} million pixels, expected at "
            f"most {MAX_PIXELS // 1_000_000}: use a smaller --width, or fewer images"
        )


def _subject(config: ShowConfig) -> _Subject:
    """The run of that name, else the dataset."""
    warehouse = Warehouse(config.warehouse)
    warehouse.check()
    if config.name not in runs.names(warehouse):
        known = [dataset.name for dataset in list_datasets(warehouse)]
        if config.name.partition("@")[0] not in known:
            listed = ", ".join([*known, *runs.names(warehouse)]) or "nothing"
            raise DatasetError(f"{config.name!r} is no dataset and no run of {warehouse.root}, which holds {listed}")
        name, _, version = config.name.partition("@")
        dataset = Dataset.open(warehouse, name, version or None)
        return _Subject(dataset.images, dataset.annotations, dataset.categories["name"].to_pylist())
    record = runs.open_committed(warehouse, config.name)
    dataset = Dataset.open(warehouse, record.dataset, record.dataset_version)
    outcomes = _table(record.outcome_parts())
    images = dataset.images.filter(
        pc.is_in(dataset.images["image_id"], value_set=outcomes["image_id"].combine_chunks())
    )
    rows = _table(record.prediction_parts())
    rows = rows.filter(pc.greater_equal(rows["score"], config.min_score))
    return _Subject(images, rows, dataset.categories["name"].to_pylist())


def _table(uris: Sequence[str]) -> pa.Table:
    """The parts of a table, read at once."""
    parts = []
    for data in storage.read_many([(uri, None, None) for uri in uris]):
        if isinstance(data, Exception):
            raise data
        parts.append(tables.from_bytes(data))
    return pa.concat_tables(parts)


def _chosen(config: ShowConfig, images: pa.Table) -> pa.Table:
    """The named images, in the order in which they are named, or a sample."""
    if images.num_rows == 0:
        raise DatasetError(f"{config.name} holds no images")
    if not config.image:
        count = min(config.sample, images.num_rows)
        return images.take([index * images.num_rows // count for index in range(count)])
    names, ids = images["file_name"].to_pylist(), images["image_id"].to_pylist()
    places = {**{str(i): row for row, i in enumerate(ids)}, **{name: row for row, name in enumerate(names)}}
    missing = [name for name in config.image if name not in places]
    if missing:
        raise DatasetError(
            f"{config.name} has no image {missing[0]!r}: expected a file name, as {names[0]!r}, or an image id"
        )
    return images.take([places[name] for name in config.image])


def _largest_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Small objects lie on top of large ones."""
    return sorted(rows, key=lambda row: -(row["area"] or 0.0))


def _label(row: dict[str, Any]) -> str:
    score = row.get("score")
    name = row["category"] or "(no category)"
    return name if score is None else f"{name} {score:.2f}"


def _color(row: dict[str, Any], categories: list[str]) -> tuple[int, int, int]:
    name = row["category"]
    return PALETTE[categories.index(name) % len(PALETTE)] if name in categories else (90, 90, 90)
