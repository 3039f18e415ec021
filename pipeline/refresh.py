"""Taking a dataset in again from where it came from, so that what changed there since becomes a new version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.datasets import Dataset, IngestConfig, IngestReport, ingest
from pipeline.errors import DatasetError
from pipeline.execution import Executor, ProgressListener, no_progress
from pipeline.warehouse import Warehouse


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
        ShardlensError: see `sources` and `pipeline.datasets.ingest`.
    """
    return [ingest(config, executor, progress) for config in sources(warehouse, name)]
