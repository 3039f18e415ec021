from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError, DatasetError, RunError
from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.base import Progress
from shardlens.pipeline.export_coco import export_coco
from shardlens.pipeline.import_coco import ImportConfig, import_coco
from shardlens.pipeline.query import query
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.layout import Warehouse
from tests import small_warehouse as small
from tests.annotations.tiny import Here
from tests.conftest import Bucket

RLE = {"size": [40, 60], "counts": small.blob(5, 6, 10, 4).counts}


@pytest.fixture
def wh(tmp_path: Path) -> str:
    warehouse = small.create(str(tmp_path / "wh"))
    small.add_dataset(warehouse)
    return warehouse.root


def entry(image_id: int, score: float, **other: Any) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": 1, "bbox": [1, 2, 3, 4], "score": score, **other}


def config(wh: str, entries: list[dict[str, Any]], run: str = "theirs", **other: Any) -> ImportConfig:
    source = storage.join(wh, "..", f"{run}.json") if "://" in wh else str(Path(wh).parent / f"{run}.json")
    storage.publish(source, json.dumps(entries).encode())
    return ImportConfig("shapes", predictions=source, run=run, warehouse=wh, **other)


def test_results_become_a_committed_run(wh: str) -> None:
    report = import_coco(config(wh, [entry(5, 0.2), entry(1, 0.3), entry(5, 0.9), entry(5, 0.2, category_id=3)]))
    assert (report.images, report.predictions, report.empty_images, report.task) == (6, 4, 4, "detection")
    found = query(wh, "SELECT image_id, rank, score, category FROM predictions WHERE run = 'theirs' ORDER BY ALL")
    assert [tuple(row.values()) for row in found.to_pylist()] == [
        (1, 0, 0.3, "circle"),
        (5, 0, 0.9, "circle"),
        (5, 1, 0.2, "circle"),
        (5, 2, 0.2, "square"),
    ]
    outcomes = query(wh, "SELECT image_id, predictions FROM outcomes WHERE status = 'ok' ORDER BY image_id").to_pydict()
    assert outcomes == {"image_id": [1, 2, 3, 4, 5, 6], "predictions": [1, 0, 0, 0, 3, 0]}


def test_the_shards_are_those_of_the_dataset(wh: str) -> None:
    seen: list[Progress] = []
    import_coco(config(wh, [entry(6, 0.1), entry(2, 0.1)], shard_size=2), seen.append)
    record = runs.open_committed(Warehouse(wh), "theirs")
    assert [part.predictions.rows for part in record.parts] == [1, 0, 1]
    assert [tables.from_bytes(storage.read(uri))["image_id"].to_pylist() for uri in record.outcome_parts()] == [
        [1, 2],
        [3, 4],
        [5, 6],
    ]
    assert [step.done for step in seen] == [2, 4, 6]


def test_what_is_exported_is_imported_the_same(wh: str, tmp_path: Path) -> None:
    first = [entry(1, 0.5, segmentation=RLE), entry(1, 0.25, segmentation=RLE), entry(3, 1 / 3, segmentation=RLE)]
    report = import_coco(config(wh, first))
    assert report.task == "instance"
    record = runs.open_committed(Warehouse(wh), "theirs")
    export_coco(record, str(tmp_path / "again.json"))
    import_coco(ImportConfig("shapes", predictions=str(tmp_path / "again.json"), run="again", warehouse=wh))
    again = runs.open_committed(Warehouse(wh), "again")
    assert [part.predictions.sha256 for part in record.parts] == [part.predictions.sha256 for part in again.parts]


def test_regions_come_back_as_regions(wh: str, tmp_path: Path) -> None:
    region = {"image_id": 1, "category_id": 1, "segmentation": RLE}
    import_coco(config(wh, [region], task="semantic"))
    assert query(wh, "SELECT kind, score, bbox.x AS x FROM predictions").to_pylist() == [
        {"kind": "region", "score": 1.0, "x": 5.0}
    ]
    assert query(wh, "SELECT task FROM runs").to_pydict() == {"task": ["semantic"]}


def annotate(wh: str, *kinds: tuple[int, str]) -> None:
    """Make the annotations of the dataset masks of these categories and kinds, all of the image 1."""
    drawn = {"size": [40, 60], "counts": RLE["counts"]}
    plain = {"image_id": 1, "iscrowd": False, "ignore": False, "flags": [], "segmentation": drawn, "area": 40.0}
    made = [
        {**plain, "annotation_id": i, "category_id": number, "category": small.CATEGORIES[number], "kind": kind}
        for i, (number, kind) in enumerate(kinds)
    ]
    place = storage.join(Warehouse(wh).dataset("shapes", "v2"), "annotations.parquet")
    storage.publish(place, tables.to_bytes(tables.from_rows(made, tables.ANNOTATIONS)))


def test_masks_of_what_is_annotated_as_regions_are_regions(wh: str) -> None:
    annotate(wh, (1, "region"), (3, "region"))
    masks = [{"image_id": 1, "category_id": n, "segmentation": RLE, "score": 0.5} for n in (1, 3)]
    assert import_coco(config(wh, masks)).task == "semantic"
    assert query(wh, "SELECT DISTINCT kind FROM predictions").to_pydict() == {"kind": ["region"]}


def test_masks_of_things_and_stuff_are_panoptic(wh: str) -> None:
    annotate(wh, (1, "region"), (3, "instance"))
    masks = [{"image_id": 1, "category_id": n, "segmentation": RLE, "score": 0.5} for n in (1, 3)]
    assert import_coco(config(wh, masks)).task == "panoptic"
    assert query(wh, "SELECT kind FROM predictions ORDER BY category_id").to_pydict() == {
        "kind": ["region", "instance"]
    }
    score = evaluate(EvaluateConfig("theirs", warehouse=wh), Here())
    assert score.tasks == ("segm", "semantic", "panoptic")


def test_categories_that_the_dataset_lacks_are_kept_with_a_note(wh: str) -> None:
    report = import_coco(config(wh, [entry(1, 0.5), entry(1, 0.4, category_id=80), entry(2, 0.4, category_id=80)]))
    assert report.notes == (
        "2 predictions are of 1 categories that the dataset does not have: 80 (2); "
        "they are kept without a category id and not scored",
    )
    assert query(wh, "SELECT category_id, category FROM predictions ORDER BY rank, image_id").to_pylist() == [
        {"category_id": 1, "category": "circle"},
        {"category_id": None, "category": "80"},
        {"category_id": None, "category": "80"},
    ]


def test_the_same_file_again_changes_nothing_and_another_is_refused(wh: str) -> None:
    first = import_coco(config(wh, [entry(1, 0.5)]))
    before = small.committed_json(runs.open_committed(Warehouse(wh), "theirs"))
    assert import_coco(config(wh, [entry(1, 0.5)])) == first
    assert small.committed_json(runs.open_committed(Warehouse(wh), "theirs")) == before
    with pytest.raises(RunError, match=r"run 'theirs' exists with other settings:\s+source.sha256"):
        import_coco(config(wh, [entry(1, 0.6)]))


def test_an_import_that_was_cut_off_is_finished(wh: str) -> None:
    cut = config(wh, [entry(1, 0.5), entry(4, 0.5)], shard_size=2)
    import_coco(cut)
    record = runs.open_committed(Warehouse(wh), "theirs")
    before = small.committed_json(record)
    storage.delete(storage.join(record.folder, "commit.json"))
    storage.delete(record.prediction_parts()[1])
    import_coco(cut)
    assert small.committed_json(runs.open_committed(Warehouse(wh), "theirs")) == before


def test_a_wrong_entry_leaves_nothing_behind(wh: str) -> None:
    with pytest.raises(DatasetError, match=r"theirs.json: \[1\]: score is float nan"):
        import_coco(config(wh, [entry(1, 0.5), entry(2, float("nan"))]))
    assert runs.names(Warehouse(wh)) == []


def test_no_results_at_all_are_a_run_too(wh: str) -> None:
    report = import_coco(config(wh, []))
    assert (report.predictions, report.empty_images) == (0, 6)
    assert query(wh, "SELECT predictions FROM runs").to_pydict() == {"predictions": [0]}


def test_an_unknown_dataset_task_and_split(wh: str) -> None:
    with pytest.raises(DatasetError, match="did you mean shapes"):
        import_coco(ImportConfig("shape", predictions="/nothing.json", run="a", warehouse=wh))
    with pytest.raises(ConfigError, match="split 'val'"):
        import_coco(config(wh, [], split="val"))
    with pytest.raises(
        ConfigError, match="task 'boxes': expected one of auto, detection, instance, semantic, panoptic"
    ):
        config(wh, [], task="boxes")
    with pytest.raises(ConfigError, match="cannot be used as a name"):
        config(wh, [], run="a b")


@pytest.mark.s3
def test_from_a_bucket_into_a_bucket(s3: Bucket) -> None:
    small.add_dataset(small.create(f"{s3.uri}/wh"))
    storage.publish(f"{s3.uri}/results.json", json.dumps([entry(1, 0.5)]).encode())
    report = import_coco(
        ImportConfig("shapes", predictions=f"{s3.uri}/results.json", run="a", warehouse=f"{s3.uri}/wh")
    )
    assert report.predictions == 1
    assert query(f"{s3.uri}/wh", "SELECT score FROM predictions").to_pydict() == {"score": [0.5]}
