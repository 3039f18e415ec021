"""A case of the corpus: odd input files, made by code, and what the commands must make of them.

A case is one line: `Case(name, make, expect)`. `make` is a function without arguments, so that nothing is made before
the test runs; it returns the `Given` files and settings. `expect` is one of

- `Ingested(values, problems)`: `shardlens ingest` takes it in; columns of the dataset's tables, and all problems by kind
- `Refused(match)`: the last command fails with a sentence that matches
- `Imported(values)`: `shardlens import` of `Given.results` gives these columns of the predictions
- `Scored(figures)`: so does `shardlens evaluate` after it, these means over the categories
- `Predicted(outcomes)`: `shardlens predict` with a tiny detector; of each image "ok", or a pattern of why not
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ShardlensError
from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.import_coco import ImportConfig, import_coco
from shardlens.pipeline.ingest import IngestConfig, IngestReport, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, predict
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.annotations.tiny import Here, put

NAME = "corpus"
PATHS = {"images", "annotations", "classes"}
"""Settings of an ingest that are paths where the case has such a file."""


@dataclass(frozen=True)
class Given:
    """Files by their path below the case's folder, and the settings of `shardlens ingest`."""

    files: Mapping[str, bytes]
    ingest: Mapping[str, Any] = field(default_factory=lambda: {"images": "images"})
    """Settings of `IngestConfig`; images and annotations are below the case's folder."""
    results: Any = None
    """A COCO results document, or its bytes: imported after the ingest."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `ImportConfig`, or of `PredictConfig`."""


class Work:
    """The commands, one after another, over the files of a case."""

    def __init__(self, given: Given, folder: Path) -> None:
        self.given = given
        self.folder = folder
        self.root = str(folder / "warehouse")
        put(folder, given.files)

    @property
    def dataset(self) -> Dataset:
        return Dataset.open(Warehouse(self.root), NAME)

    def ingest(self) -> IngestReport:
        """`shardlens ingest`."""
        asked = {key: self._path(key, value) for key, value in self.given.ingest.items()}
        return ingest(IngestConfig(NAME, warehouse=self.root, **asked), Here())

    def _path(self, key: str, value: Any) -> Any:
        is_path = key in PATHS and (key != "classes" or value in self.given.files)
        return str(self.folder / value) if is_path else value

    def imported(self) -> Any:
        """`shardlens import`."""
        found = self.given.results
        data = found if isinstance(found, bytes) else json.dumps(found).encode()
        where = put(self.folder, {"results.json": data}) + "/results.json"
        return import_coco(ImportConfig(NAME, predictions=where, run="run", warehouse=self.root, **self.given.settings))

    def predicted(self) -> None:
        """`shardlens predict`, any number of images may be quarantined."""
        network = NetworkConfig(model="tests.odd_models:SPEC", weights="random")
        settings = {"run": "run", "precision": "fp32", "max_quarantined": 1.0, **self.given.settings}
        predict(PredictConfig(NAME, network=network, warehouse=self.root, **settings), Here())

    def parts(self, kind: str) -> pa.Table:
        """The rows of the run's parts of a kind, predictions or outcomes."""
        record = runs.open_committed(Warehouse(self.root), "run")
        uris = record.prediction_parts() if kind == "predictions" else record.outcome_parts()
        return pa.concat_tables([tables.from_bytes(storage.read(uri)).replace_schema_metadata(None) for uri in uris])


@dataclass(frozen=True)
class Ingested:
    """What the tables hold after an ingest."""

    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Values of columns such as `annotations.iscrowd`, or of a part of a struct such as `annotations.bbox.x`."""
    problems: Mapping[str, int] = field(default_factory=dict)
    """All problems by kind."""

    def check(self, work: Work) -> None:
        report = work.ingest()
        assert {problem.kind: problem.count for problem in report.problems} == dict(self.problems), str(report)
        for name, wanted in self.values.items():
            table, column, *part = name.split(".")
            values = getattr(work.dataset, table)[column].to_pylist()
            assert [value[part[0]] if part and value else value for value in values] == list(wanted), name


@dataclass(frozen=True)
class Refused:
    """The sentence of an explained error, by the last command that the case asks for."""

    match: str
    predict: bool = False

    def check(self, work: Work) -> None:
        if work.given.results is None and not self.predict:
            with pytest.raises(ShardlensError, match=self.match):
                work.ingest()
            return
        work.ingest()
        with pytest.raises(ShardlensError, match=self.match):
            work.predicted() if self.predict else work.imported()


@dataclass(frozen=True)
class Imported:
    """What the predictions hold after an import."""

    values: Mapping[str, Sequence[Any]]

    def check(self, work: Work) -> None:
        work.ingest()
        work.imported()
        rows = work.parts("predictions")
        assert {name: rows[name].to_pylist() for name in self.values} == dict(self.values)


@dataclass(frozen=True)
class Scored:
    """Means over the categories after ingest, import and evaluate: {"bbox AP": 1.0}."""

    figures: Mapping[str, float | None]

    def check(self, work: Work) -> None:
        work.ingest()
        work.imported()
        score = evaluate(EvaluateConfig("run", warehouse=work.root), Here())
        means = {f"{task} {metric}": value for task, metric, value in score.summary()}
        for name, wanted in self.figures.items():
            assert means[name] == (wanted if wanted is None else pytest.approx(wanted)), name


@dataclass(frozen=True)
class Predicted:
    """What becomes of each image, in the order of the ids: "ok", or a pattern of stage, error and message."""

    outcomes: Sequence[str]

    def check(self, work: Work) -> None:
        work.ingest()
        work.predicted()
        rows = work.parts("outcomes").to_pylist()
        reasons = [r["status"] if r["status"] == "ok" else f"{r['stage']} {r['error']}: {r['message']}" for r in rows]
        assert len(reasons) == len(self.outcomes), reasons
        for reason, wanted in zip(reasons, self.outcomes, strict=True):
            assert re.search(wanted, reason), reason


Expect = Ingested | Refused | Imported | Scored | Predicted


@dataclass(frozen=True)
class Case:
    """One odd input and what is right."""

    name: str
    make: Callable[[], Given]
    expect: Expect
