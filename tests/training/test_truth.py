from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from shardlens.pipeline import masks
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.training.truth import COLUMNS, degenerate, select
from shardlens.pipeline.warehouse import tables

CATEGORIES = tables.from_rows([{"category_id": 3, "name": "disc"}], tables.CATEGORIES)
SQUARE = masks.from_polygons([[1, 1, 5, 1, 5, 5, 1, 5]], 10, 20)
RLE = {"size": [SQUARE.height, SQUARE.width], "counts": SQUARE.counts}
IMAGES = tables.from_rows(
    [{"image_id": i, "file_name": "f", "uri": "u", "width": 20, "height": 10, "flags": []} for i in (1, 2, 5)],
    tables.IMAGES,
)


def box(x: float, y: float, width: float, height: float) -> dict[str, float]:
    return {"x": x, "y": y, "width": width, "height": height}


def rows(*given: dict[str, Any]) -> pa.Table:
    """Annotation rows: a masked disc in image 1, but for what is given."""
    usual = {"image_id": 1, "category_id": 3, "category": "disc", "kind": "instance", "bbox": box(1, 1, 4, 4)}
    usual |= {"iscrowd": False, "ignore": False, "segmentation": RLE, "flags": []}
    full = [{**usual, "annotation_id": i, **row} for i, row in enumerate(given)]
    return tables.from_rows(full, tables.ANNOTATIONS).select(list(COLUMNS))


FAULTS = {
    "crowd": {"iscrowd": True},
    "ignored": {"ignore": True},
    "without a category": {"category_id": None},
    "regions, not objects": {"kind": "region"},
    "box empty or outside its image": {"bbox": box(20, 0, 5, 5)},
}


@pytest.mark.parametrize("task", ["detection", "instance"])
@pytest.mark.parametrize(("reason", "fault"), FAULTS.items())
def test_what_is_no_object_is_left_out_and_counted(task: Any, reason: str, fault: dict[str, Any]) -> None:
    truth = select(rows({}, fault, fault), IMAGES, task, CATEGORIES)
    assert truth.left_out == {reason: 2}
    assert truth.rows["annotation_id"].to_pylist() == [0]


def test_a_row_with_two_faults_is_counted_once() -> None:
    truth = select(rows({}, {"iscrowd": True, "ignore": True}), IMAGES, "detection", CATEGORIES)
    assert truth.left_out == {"crowd": 1}


@pytest.mark.parametrize(("task", "kept"), [("detection", [0, 1]), ("instance", [1]), ("semantic", [1])])
def test_tasks_with_masks_need_masks(task: Any, kept: list[int]) -> None:
    truth = select(rows({"segmentation": None, "kind": "box"}, {}), IMAGES, task, CATEGORIES)
    assert truth.rows["annotation_id"].to_pylist() == kept


def test_semantic_models_see_crowds_regions_and_void() -> None:
    given = rows({"iscrowd": True}, {"kind": "region"}, {"category_id": None}, {"ignore": True})
    assert select(given, IMAGES, "semantic", CATEGORIES).rows.num_rows == 4


def test_rows_of_other_images_are_not_seen() -> None:
    truth = select(rows({}, {"image_id": 4}, {"image_id": 5}, {"image_id": 5}), IMAGES, "detection", CATEGORIES)
    assert (truth.rows.num_rows, truth.left_out) == (3, {})
    assert [row["annotation_id"] for row in truth.of(5)] == [2, 3]
    assert truth.of(2) == []


BOXES = [
    (box(0, 0, 20, 10), False),
    (box(-3, -3, 4, 4), False),
    (box(5, 5, 0, 4), True),
    (box(5, 5, -2, 4), True),
    (box(-5, 0, 5, 5), True),
    (box(3, 10, 5, 5), True),
    (box(16.0, 5, 1e-7, 4), True),
    (None, True),
]


@pytest.mark.parametrize(("bbox", "expected"), BOXES)
def test_a_box_must_cover_some_of_its_image(bbox: Any, expected: bool) -> None:
    assert degenerate(rows({"bbox": bbox}), IMAGES).tolist() == [expected]


def test_a_category_that_is_not_listed_is_an_error() -> None:
    with pytest.raises(
        DatasetError, match=r"1 annotations name categories .* such as 7; it lists \[3\].*ingest it again"
    ):
        select(rows({}, {"category_id": 7}), IMAGES, "detection", CATEGORIES)
