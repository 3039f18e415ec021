"""Evaluate: tables of committed runs, whatever the shards; stored partials; what is absent, and what cannot be scored."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError, DatasetError, ExecutionError, RunError
from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.base import Lost
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.metrics.coco import FIGURES
from shardlens.pipeline.query import query
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.layout import Warehouse
from shardlens.pipeline.warehouse.runs import RunRecord
from tests import small_warehouse
from tests.metrics import coco_sets
from tests.metrics.coco_sets import CATEGORIES, CocoSet, by_pycocotools, random_set

BOX = [10.0, 10.0, 40.0, 40.0]


class Counting(LocalExecutor):
    """The executor of this process, which also keeps what it was given."""

    def __init__(self):
        self.items = []

    def map(self, stage, items, attempts=3):
        for done in super().map(stage, items, attempts):
            self.items.append(done.item)
            yield done


class Deadly(LocalExecutor):
    """Every worker dies."""

    def map(self, stage, items, attempts=3):
        yield from (Lost(item, attempts, "killed by signal 9") for item in items)


def write_dataset(warehouse, coco_set, kind="box", annotations=None):
    """The set as a dataset on disk; `annotations` replaces its table."""
    place = {"uri": "/x.jpg", "height": coco_sets.HEIGHT, "width": coco_sets.WIDTH, "flags": []}
    images = [{"image_id": i, "file_name": f"{i}.jpg", **place} for i in sorted(coco_set.image_ids)]
    truth = coco_set.tables(kind)[0].sort_by("image_id") if annotations is None else annotations
    categories = [{"category_id": c, "name": f"c{c}"} for c in CATEGORIES]
    root = warehouse.dataset("shapes", "v1")
    parts = {
        "images": tables.from_rows(images, tables.IMAGES),
        "annotations": truth,
        "categories": tables.from_rows(categories, tables.CATEGORIES),
    }
    for name, table in parts.items():
        storage.publish(storage.join(root, f"{name}.parquet"), tables.to_bytes(table))
    small_warehouse.describe(warehouse, "shapes", "v1", len(images), truth.num_rows)


def write_run(warehouse, coco_set, name="r1", shards=2, task="detection", kind="box", quarantined=(), generation=0):
    """Commit the set's predictions in `shards` parts of neighboring images."""
    record = runs.begin(RunRecord(warehouse, name, "shapes", "v1", {"task": task}, shards, {}))
    predictions = coco_set.tables(kind)[1]
    parts = []
    for shard, ids in enumerate(np.array_split(np.sort(coco_set.image_ids), shards)):
        rows = predictions.filter(pc.is_in(predictions["image_id"], pa.array(ids)))
        outcomes = [
            {"image_id": i, "status": "quarantined" if i in quarantined else "ok", "predictions": 0}
            for i in ids.tolist()
        ]
        parts.append(runs.publish(record, shard, rows, tables.from_rows(outcomes, tables.OUTCOMES), generation))
    return runs.commit(record, parts, {})


@pytest.fixture
def warehouse(tmp_path):
    warehouse = Warehouse(str(tmp_path))
    warehouse.create()
    return warehouse


@pytest.fixture
def boxes():
    return random_set(np.random.default_rng(4))


def run(warehouse, name="r1", engine="hotcoco", executor=None):
    return evaluate(EvaluateConfig(name, engine=engine, warehouse=warehouse.root), executor or Counting())


def values(found, task="bbox"):
    return {metric: value for t, metric, value in found.summary() if t == task}


def expected(oracle):
    return {f.name: None if v == -1 else v for f, v in zip(FIGURES, oracle.stats.tolist(), strict=True)}


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
@pytest.mark.parametrize("shards", [1, 5])
def test_a_detection_run_scores_what_pycocotools_says(warehouse, boxes, shards, engine):
    write_dataset(warehouse, boxes)
    write_run(warehouse, boxes, shards=shards)
    found = run(warehouse, engine=engine)
    assert found.tasks == ("bbox",)
    assert values(found) == expected(by_pycocotools(boxes, "bbox"))


def test_an_instance_run_is_scored_by_boxes_and_masks(warehouse):
    coco_set = random_set(np.random.default_rng(5), with_masks=True)
    write_dataset(warehouse, coco_set, "instance")
    write_run(warehouse, coco_set, task="instance", kind="instance")
    found = run(warehouse)
    assert found.tasks == ("bbox", "segm")
    assert values(found, "bbox") == expected(by_pycocotools(coco_set, "bbox"))
    assert values(found, "segm") == expected(by_pycocotools(coco_set, "segm"))


def test_the_tables_are_published_with_their_schemas(warehouse, boxes):
    write_dataset(warehouse, boxes)
    record = write_run(warehouse, boxes)
    found = run(warehouse)
    stored = storage.read(found.metrics_uri)
    assert found.metrics_uri == storage.join(warehouse.metrics("shapes", "r1"), "metrics.parquet")
    assert tables.from_bytes(stored).equals(found.metrics)
    assert tables.from_bytes(storage.read(found.curves_uri)).equals(found.curves)
    assert (found.metrics.schema, found.curves.schema) == (tables.METRICS, tables.CURVES)
    assert json.loads(tables.footer(stored)["shardlens"])["fingerprint"] == record.fingerprint
    assert found.metrics.num_rows == 12 * (1 + len(CATEGORIES))


def test_any_number_of_shards_gives_the_same_tables(warehouse, boxes):
    write_dataset(warehouse, boxes)
    found = []
    for shards in (1, 3, 12):
        write_run(warehouse, boxes, f"r{shards}", shards)
        found.append(run(warehouse, f"r{shards}"))
    names = [name for name in tables.METRICS.names if name != "run"]
    assert all(f.metrics.select(names).equals(found[0].metrics.select(names)) for f in found[1:])


def test_a_second_evaluation_uses_the_stored_partials(warehouse, boxes):
    write_dataset(warehouse, boxes)
    write_run(warehouse, boxes, shards=3)
    first, again = Counting(), Counting()
    before = run(warehouse, executor=first)
    after = run(warehouse, executor=again)
    assert (len(first.items), len(again.items)) == (3, 0)
    assert after.metrics.equals(before.metrics)


def test_each_folder_of_tables_has_one_schema_and_earlier_places_are_read(warehouse, boxes):
    write_dataset(warehouse, boxes)
    write_run(warehouse, boxes, shards=3)
    before = run(warehouse)
    metrics, curves = (folder("shapes", "r1") for folder in (warehouse.metrics, warehouse.curves))
    assert (storage.children(metrics), storage.children(curves)) == (["metrics.parquet"], ["curves.parquet"])
    for folder in ("metrics", "curves"):
        files = f"{warehouse.path(folder)}/**/*.parquet"
        with duckdb.connect() as reader:
            assert reader.sql(f"SELECT * FROM read_parquet('{files}')").fetchall()
    Path(curves, "curves.parquet").rename(Path(metrics, "curves.parquet"))
    count = "SELECT count(*) AS n FROM curves"
    assert query(warehouse.root, count)["n"].to_pylist() == [before.curves.num_rows]
    again = Counting()
    assert run(warehouse, executor=again).metrics.equals(before.metrics)
    assert not again.items
    assert not Path(metrics, "curves.parquet").exists()
    assert query(warehouse.root, count)["n"].to_pylist() == [before.curves.num_rows]


def test_a_damaged_partial_and_another_engine_are_computed_anew(warehouse, boxes):
    write_dataset(warehouse, boxes)
    write_run(warehouse, boxes, shards=3)
    run(warehouse)
    folder = warehouse.partials("shapes", "r1")
    storage.publish(storage.join(folder, storage.children(folder)[1]), b"half of a zip")
    mended, other = Counting(), Counting()
    run(warehouse, executor=mended)
    run(warehouse, executor=other, engine="pycocotools")
    assert [item.shard for item in mended.items] == [1]
    assert len(other.items) == 3


def test_replaced_parts_are_evaluated_anew(warehouse, boxes):
    """What a retry of quarantined images publishes has other digests, and so other partials."""
    write_dataset(warehouse, boxes)
    record = write_run(warehouse, CocoSet(boxes.image_ids, [], []), shards=2)
    assert values(run(warehouse))["AP"] == 0.0
    new = runs.publish(record, 0, *one_shard(boxes, record), generation=1)
    runs.recommit(record, [new, *record.parts[1:]], {})
    executor = Counting()
    assert values(run(warehouse, executor=executor))["AP"] > 0
    assert [item.shard for item in executor.items] == [0]


def one_shard(coco_set, record):
    outcomes = tables.from_bytes(storage.read(record.outcome_parts()[0]))
    predictions = coco_set.tables("box")[1]
    return predictions.filter(pc.is_in(predictions["image_id"], outcomes["image_id"].combine_chunks())), outcomes


def test_quarantined_images_count_as_images_without_predictions(warehouse):
    predictions = [{"image_id": 1, "category_id": 3, "bbox": BOX, "score": 0.9}]
    truth = [coco_sets.annotation(1, 1, 3, BOX), coco_sets.annotation(2, 2, 3, BOX)]
    coco_set = CocoSet([1, 2], truth, predictions)
    write_dataset(warehouse, coco_set)
    write_run(warehouse, coco_set, quarantined=(2,))
    found = run(warehouse)
    assert (values(found)["AR100"], values(found, "images")) == (0.5, {"scored": 2.0, "quarantined": 1.0})
    assert found.notes[0].startswith("1 of 2 images were quarantined: they count as images without predictions")


def test_images_outside_the_run_are_not_missed(warehouse, boxes):
    """A run of one split is scored by the truth of its images alone."""
    write_dataset(warehouse, boxes)
    some = sorted(boxes.image_ids)[::2]
    kept = CocoSet(
        some,
        [a for a in boxes.annotations if a["image_id"] in some],
        [p for p in boxes.predictions if p["image_id"] in some],
    )
    write_run(warehouse, kept)
    assert values(run(warehouse)) == expected(by_pycocotools(kept, "bbox"))


def test_no_predictions_score_zero(warehouse, boxes):
    write_dataset(warehouse, boxes)
    write_run(warehouse, CocoSet(boxes.image_ids, [], []))
    found = run(warehouse)
    assert (found.tasks, values(found)["AP"], values(found)["AR100"]) == (("bbox",), 0.0, 0.0)


def test_categories_on_one_side_only(warehouse):
    """Truth alone scores 0, predictions alone are undefined, and so is what is on neither side."""
    truth, predictions = (
        [coco_sets.annotation(1, 1, 3, BOX)],
        [{"image_id": 1, "category_id": 5, "bbox": BOX, "score": 1.0}],
    )
    coco_set = CocoSet([1], truth, predictions)
    write_dataset(warehouse, coco_set)
    write_run(warehouse, coco_set, shards=1)
    rows = run(warehouse).metrics.to_pylist()
    found = {row["category_id"]: row["value"] for row in rows if row["metric"] == "AP"}
    assert found == {None: 0.0, 3: 0.0, 5: None, 40: None, 41: None}


def test_predictions_without_a_category_are_not_scored_and_noted(warehouse):
    truth = [coco_sets.annotation(1, 1, 3, BOX)]
    rows = [{"image_id": 1, "category_id": c, "bbox": BOX, "score": 0.9} for c in (None, 3)]
    coco_set = CocoSet([1], truth, rows)
    write_dataset(warehouse, coco_set)
    write_run(warehouse, coco_set, shards=1)
    found = run(warehouse)
    assert values(found)["AP"] == pytest.approx(1.0)
    assert "1 predictions name no category of dataset shapes and were not scored" in found.notes


def test_images_without_truth_are_undefined(warehouse):
    truth = [coco_sets.annotation(1, 1, 3, BOX)]
    write_dataset(warehouse, CocoSet([1, 2], truth, []))
    write_run(warehouse, CocoSet([2], [], [{"image_id": 2, "category_id": 3, "bbox": BOX, "score": 0.9}]), shards=1)
    found = run(warehouse)
    assert set(values(found).values()) == {None}
    assert "none of the 1 images has an annotation: every figure is undefined" in found.notes


@pytest.mark.parametrize(("kind", "tasks"), [("box", ("bbox",)), ("instance", ("bbox", "segm"))])
def test_an_imported_run_is_scored_by_what_it_predicted(warehouse, kind, tasks):
    coco_set = random_set(np.random.default_rng(6), with_masks=True)
    write_dataset(warehouse, coco_set, "instance")
    write_run(warehouse, coco_set, task=None, kind=kind)
    assert run(warehouse).tasks == tasks


def test_a_semantic_run_is_scored_by_pixels(warehouse):
    """Half of the truth is found in the first image; the second is background all over, and right."""
    left, top = [0.0, 0.0, 75.0, 120.0], [0.0, 0.0, 150.0, 60.0]
    truth = [{**coco_sets.annotation(1, 1, 3, left), "segmentation": coco_sets.shape([0, 0, 74.5, 119.5], False)}]
    rows = [{"image_id": 1, "category_id": 3, "bbox": top, "score": 0.9}]
    rows[0]["segmentation"] = coco_sets.shape([0, 0, 149.5, 59.5], False)
    coco_set = CocoSet([1, 2], truth, rows)
    write_dataset(warehouse, coco_set, "region")
    write_run(warehouse, coco_set, task="semantic", kind="region")
    found = run(warehouse)
    assert found.tasks == ("semantic",)
    assert values(found, "semantic") == {"Dice": 0.5, "IoU": 1 / 3, "accuracy": 0.5, "pixel_accuracy": 0.75}
    assert found.curves.num_rows == 0


def test_a_dataset_without_annotations_is_an_error(warehouse, boxes):
    write_dataset(warehouse, boxes, annotations=tables.ANNOTATIONS.empty_table())
    write_run(warehouse, boxes)
    with pytest.raises(
        DatasetError, match=r"dataset shapes \(version v1\) has no annotations, so that run 'r1' cannot"
    ):
        run(warehouse)


def test_truth_of_another_kind_is_an_error(warehouse, boxes):
    write_dataset(warehouse, boxes)
    write_run(warehouse, boxes, task="semantic")
    with pytest.raises(
        RunError, match=r"run 'r1' is scored by semantic, but the annotations of .* are \d+ of kind box"
    ):
        run(warehouse)


def test_a_shard_that_kills_its_workers_ends_the_evaluation(warehouse, boxes):
    write_dataset(warehouse, boxes)
    write_run(warehouse, boxes)
    with pytest.raises(
        ExecutionError, match=r"shard 0 of run 'r1' was not evaluated, its worker died 3 times \(killed by"
    ):
        run(warehouse, executor=Deadly())


def test_settings_are_checked_at_once():
    with pytest.raises(ConfigError, match="no evaluation engine 'coco'"):
        EvaluateConfig("r1", engine="coco")
    with pytest.raises(ConfigError, match="run 'a/b' cannot be used as a name"):
        EvaluateConfig("a/b")


def test_a_run_that_is_not_complete_is_not_scored(warehouse):
    runs.begin(RunRecord(warehouse, "half", "shapes", "v1", {}, 2, {}))
    with pytest.raises(RunError, match="run 'half' is not complete"):
        run(warehouse, "half")


def test_what_travels_to_a_worker_is_its_slice_alone(warehouse, boxes):
    write_dataset(warehouse, boxes)
    write_run(warehouse, boxes, "whole", shards=1)
    write_run(warehouse, boxes, "cut", shards=12)
    whole, cut = Counting(), Counting()
    run(warehouse, "whole", executor=whole)
    run(warehouse, "cut", executor=cut)
    rows = [pa.ipc.open_stream(item.annotations).read_all().num_rows for item in cut.items]
    assert sum(rows) == len(boxes.annotations)
    assert max(len(pickle.dumps(item)) for item in cut.items) < len(pickle.dumps(whole.items[0]))


def test_progress_counts_shards(warehouse, boxes):
    write_dataset(warehouse, boxes)
    write_run(warehouse, boxes, shards=3)
    heard = []
    evaluate(EvaluateConfig("r1", warehouse=warehouse.root), Counting(), heard.append)
    assert [(p.done, p.total, p.unit) for p in heard] == [(n, 3, "shards") for n in range(4)]
