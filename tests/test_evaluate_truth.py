"""Evaluate by the annotations of another version: where the images are the same, and only there."""

from __future__ import annotations

import numpy as np
import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.errors import DatasetError, RunError
from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.layout import Warehouse, to_json
from tests import small_warehouse
from tests.metrics.coco_sets import CATEGORIES, CocoSet, by_pycocotools, random_set
from tests.test_evaluate import expected, values, write_dataset, write_run


@pytest.fixture
def before():
    return random_set(np.random.default_rng(4))


@pytest.fixture
def corrected(before):
    """Every other annotation was removed at the source."""
    return CocoSet(before.image_ids, before.annotations[::2], before.predictions)


@pytest.fixture
def warehouse(tmp_path, before, corrected):
    """A run of v1, whose annotations v2 corrects."""
    warehouse = Warehouse(str(tmp_path))
    warehouse.create()
    write_dataset(warehouse, before)
    write_run(warehouse, before)
    add_version(warehouse, "v2", corrected)
    return warehouse


def add_version(warehouse, version, coco_set, images=lambda table: table, names="c{}"):
    old, root = warehouse.dataset("shapes", "v1"), warehouse.dataset("shapes", version)
    categories = [{"category_id": c, "name": names.format(c)} for c in CATEGORIES]
    parts = {
        "images": images(tables.from_bytes(storage.read(storage.join(old, "images.parquet")))),
        "annotations": coco_set.tables("box")[0].sort_by("image_id"),
        "categories": tables.from_rows(categories, tables.CATEGORIES),
    }
    for name, table in parts.items():
        storage.publish(storage.join(root, f"{name}.parquet"), tables.to_bytes(table))
    counts = parts["images"].num_rows, parts["annotations"].num_rows
    small_warehouse.describe(warehouse, "shapes", version, *counts)


def run(warehouse, **asked):
    return evaluate(EvaluateConfig("r1", warehouse=warehouse.root, **asked), LocalExecutor())


def test_a_run_is_scored_by_the_version_that_it_predicted_with_a_note_that_it_changed(warehouse, before):
    evaluation = run(warehouse)
    assert values(evaluation) == expected(by_pycocotools(before, "bbox"))
    assert any("have changed since (version v2): score by them with --truth latest" in n for n in evaluation.notes)


@pytest.mark.parametrize("wanted", ["latest", "v2"])
def test_corrected_annotations_are_the_truth_if_asked_for(warehouse, corrected, before, wanted):
    run(warehouse)  # whose partials must not be taken
    evaluation = run(warehouse, truth=wanted)
    assert values(evaluation) == expected(by_pycocotools(corrected, "bbox"))
    assert evaluation.truth_version == "v2"
    assert any("scored by the annotations of version v2, not of the run's v1" in n for n in evaluation.notes)
    assert values(run(warehouse)) == expected(by_pycocotools(before, "bbox"))


def test_the_latest_version_is_the_run_itself_while_there_is_no_other(warehouse, before):
    storage.publish(storage.join(warehouse.dataset("shapes"), "latest.json"), to_json({"version": "v1"}))
    evaluation = run(warehouse, truth="latest")
    assert values(evaluation) == expected(by_pycocotools(before, "bbox"))
    assert evaluation.truth_version is None
    assert not any("changed since" in note for note in evaluation.notes)


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (lambda table: table.slice(2), 2),
        (lambda table: table.set_column(1, table.schema.field(1), [[f"x{i}" for i in range(table.num_rows)]]), 12),
    ],
)
def test_images_that_are_gone_or_others_are_refused(warehouse, corrected, change, count):
    add_version(warehouse, "v3", corrected, change)
    with pytest.raises(RunError, match=rf"by version v3 of dataset shapes: {count} of its 12 images are missing there"):
        run(warehouse, truth="latest")
    assert not any("changed since" in note for note in run(warehouse).notes)


def test_categories_of_other_names_are_refused(warehouse, corrected):
    add_version(warehouse, "v3", corrected, names="other{}")
    with pytest.raises(RunError, match=r"category ids mean other categories there: 3 \(c3, there other3\)"):
        run(warehouse, truth="v3")


def test_more_images_than_the_run_has_are_no_hindrance(warehouse, corrected, before):
    def grown(table):
        last = table.slice(table.num_rows - 1).to_pylist()[0]
        rows = [*table.to_pylist(), {**last, "image_id": last["image_id"] + 1, "file_name": "new.jpg"}]
        return tables.from_rows(rows, tables.IMAGES)

    add_version(warehouse, "v3", corrected, grown)
    assert values(run(warehouse, truth="latest")) == expected(by_pycocotools(corrected, "bbox"))


def test_an_unknown_version_is_an_error(warehouse):
    with pytest.raises(DatasetError, match="no version 'v9'"):
        run(warehouse, truth="v9")


def test_a_run_that_was_cut_at_a_threshold_says_what_it_may_cost(warehouse, before):
    lowest = min(row["score"] for row in before.predictions)
    noted = [note for note in run(warehouse).notes if "no predictions with a score below" in note]
    assert bool(noted) == (lowest >= 0.01)
    cut = CocoSet(before.image_ids, before.annotations, [p for p in before.predictions if p["score"] >= 0.25])
    write_run(warehouse, cut, "cut")
    evaluation = evaluate(EvaluateConfig("cut", warehouse=warehouse.root), LocalExecutor())
    assert any("no predictions with a score below 0." in note for note in evaluation.notes)


def test_a_run_that_ends_at_a_limit_of_predictions_was_not_cut_at_a_threshold(warehouse, before):
    full = [{**p, "image_id": before.image_ids[0], "score": 0.5} for p in before.predictions]
    full = (full * 100)[:100]
    write_run(warehouse, CocoSet(before.image_ids, before.annotations, full), "full", shards=1)
    evaluation = evaluate(EvaluateConfig("full", warehouse=warehouse.root), LocalExecutor())
    assert not any("no predictions with a score below" in note for note in evaluation.notes)


def test_ignored_objects_are_named_since_pycocotools_counts_them(tmp_path, before):
    warehouse = Warehouse(str(tmp_path / "other"))
    warehouse.create()
    for row in before.annotations[:3]:
        row["ignore"], row["iscrowd"] = True, 0
    write_dataset(warehouse, before)
    write_run(warehouse, before)
    assert any(note.startswith("3 objects are marked ignore") for note in run(warehouse).notes)
