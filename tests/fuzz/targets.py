"""What is fuzzed: a good file of each kind, and what reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

import safetensors.torch
import torch

from shardlens.models import MODELS
from shardlens.models.darknet import cfg as darknet_cfg
from shardlens.pipeline.images.decode import decode
from shardlens.pipeline.images.header import read_header
from shardlens.pipeline.images.policy import DecodePolicy
from shardlens.pipeline.import_coco import ImportConfig, import_coco
from shardlens.pipeline.ingest import IngestConfig, ingest, sources
from shardlens.pipeline.networks import weights
from shardlens.pipeline.sql.views import snapshot
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.datasets import list_datasets
from shardlens.pipeline.warehouse.runs import RunRecord
from tests import small_warehouse as small
from tests.annotations.tiny import Here, put, tar, voc_object, xml
from tests.corpus.files import HEIGHT, WIDTH, coco_given, entry, jpeg, note, result
from tests.drawn_images import encode, picture
from tests.fuzz.mutations import mutated, mutated_json

Mutate = Callable[[bytes, Random], bytes]
Read = Callable[[bytes, Path], object]


@dataclass(frozen=True)
class Target:
    """A good file, how it is mutated, and what reads it."""

    seed: bytes
    read: Read
    mutate: Mutate = mutated


def _image(data: bytes, folder: Path) -> None:
    read_header(data)
    decode(data, DecodePolicy())


def _ingest(files: Mapping[str, bytes], folder: Path, **places: str) -> None:
    put(folder, files)
    asked = {name: str(folder / place) for name, place in places.items()}
    ingest(IngestConfig("fuzz", warehouse=str(folder / "wh"), **asked), Here())  # type: ignore[arg-type]


def _coco(data: bytes, folder: Path) -> None:
    _ingest({"images/a.jpg": jpeg(), "c.json": data}, folder, images="images", annotations="c.json")


def _results(data: bytes, folder: Path) -> None:
    given = coco_given()
    _ingest(given.files, folder, images="images", annotations="instances.json")
    put(folder, {"r.json": data})
    import_coco(ImportConfig("fuzz", predictions=str(folder / "r.json"), run="r", warehouse=str(folder / "wh")))


def _voc(data: bytes, folder: Path) -> None:
    _ingest({"all/a.jpg": jpeg(), "all/a.xml": data}, folder, images="all", annotations="all")


def _tar(data: bytes, folder: Path) -> None:
    _ingest({"t/0.tar": data}, folder, images="t")


def _cfg(data: bytes, folder: Path) -> None:
    MODELS["darknet"].build(num_classes=2, cfg=data.decode("utf-8", "replace"))


def _weights(data: bytes, folder: Path) -> None:
    weights.read_checkpoint(data)
    weights.load(_tiny(), data, "w.weights")


def _tiny() -> torch.nn.Module:
    return MODELS["yolov3_tiny"].build(num_classes=2, width=0.0625)


def _parquet(data: bytes, folder: Path) -> None:
    tables.from_bytes(data).validate(full=True)


def _warehouse(folder: Path) -> RunRecord:
    warehouse = small.create(str(folder / "wh"))
    small.add_dataset(warehouse)
    return small.add_run(warehouse, "a", [[0.5], [0.4]])


def _documents(record: RunRecord) -> dict[str, Path]:
    dataset = Path(record.warehouse.dataset("shapes"))
    files = {"run": "run.json", "commit": "commit.json"}
    return {
        **{kind: Path(record.folder, name) for kind, name in files.items()},
        "latest": dataset / "latest.json",
        "dataset": dataset / "v2" / "dataset.json",
    }


def _document(kind: str) -> Read:
    def read(data: bytes, folder: Path) -> None:
        record = _warehouse(folder)
        _documents(record)[kind].write_bytes(data)
        found = runs.open_committed(record.warehouse, "a")
        runs.present(found)
        assert found.prediction_parts()
        assert found.labels is not None
        snapshot(record.warehouse)
        list_datasets(record.warehouse)
        sources(record.warehouse.root, "shapes")

    return read


def targets(folder: Path) -> dict[str, Target]:
    """All targets; `folder` is for what is made on the way."""
    pixels = picture(HEIGHT, WIDTH)
    forms = {"jpeg": "JPEG", "png": "PNG", "tiff": "TIFF", "gif": "GIF", "webp": "WEBP"}
    found = {name: Target(encode(pixels, form), _image) for name, form in forms.items()}
    mask = {"size": [HEIGHT, WIDTH], "counts": [10, 5, HEIGHT * WIDTH - 15]}
    notes = [note(segmentation=[[10, 10, 30, 10, 30, 30]]), note(2, segmentation=mask), note("x", iscrowd=1)]
    document = coco_given([entry(), entry(2, "b.jpg")], notes).files["instances.json"]
    found["coco"] = Target(document, _coco, mutated_json)
    results = [result(), result(segmentation=mask), result(segmentation=[[1, 1, 9, 1, 9, 9]])]
    found["results"] = Target(json.dumps(results).encode(), _results, mutated_json)
    found["voc"] = Target(xml("a.jpg", voc_object("cat"), voc_object("dog"), width=WIDTH, height=HEIGHT), _voc)
    found["tar"] = Target(tar({"a.jpg": jpeg(), "b/c.jpg": jpeg(1)}), _tar)
    found["cfg"] = Target(darknet_cfg.render(darknet_cfg.parse(_tiny().cfg)).encode(), _cfg)
    found["weights"] = Target(_tiny().save_darknet(), _weights)
    state = {"a": torch.zeros(3, 4), "b": torch.ones(5, dtype=torch.float16)}
    found["safetensors"] = Target(safetensors.torch.save(state, {"shardlens": "{}"}), _weights)
    rows = [small.row(1, rank, 0.5, small.blob(1, 1, 9, 9)) for rank in range(50)]
    found["parquet"] = Target(tables.to_bytes(tables.from_rows(rows, tables.PREDICTIONS)), _parquet)
    for kind, file in _documents(_warehouse(folder / "seed")).items():
        found[kind] = Target(file.read_bytes(), _document(kind), mutated_json)
    return found
