from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from shardlens.models.losses.border import border_weights
from shardlens.models.losses.segmentation import VOID
from shardlens.models.spec import InputRule
from shardlens.pipeline import masks
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.images.decode import Decoded, decode
from shardlens.pipeline.images.policy import DecodePolicy
from shardlens.pipeline.training.samples import (
    Sample,
    SampleMaker,
    blank,
    boxes_xyxy,
    class_map,
    instance_map,
    masks_nhw,
)
from tests.drawn_images import rotated_jpeg

LABELS = {3: 1, 8: 2}
RULE = InputRule()


def row(x: int, y: int, width: int, height: int, shape: tuple[int, int], category: int | None = 3, **more: Any) -> Any:
    """An annotation row: a box, and the same as mask, in an image of `shape` (height, width)."""
    drawn = np.zeros(shape, np.uint8)
    drawn[y : y + height, x : x + width] = 1
    rle = masks.encode(drawn)
    bbox = {"x": x, "y": y, "width": width, "height": height}
    segmentation = {"size": [rle.height, rle.width], "counts": rle.counts}
    usual = {"annotation_id": 0, "category_id": category, "ignore": False, "bbox": bbox, "segmentation": segmentation}
    return {**usual, **more}


def plain(height: int = 10, width: int = 20) -> Decoded:
    return Decoded(np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3), 1, height, width)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_targets_lie_where_the_objects_are_in_the_upright_image(orientation: int) -> None:
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[8:16, 24:40] = 255
    decoded = decode(rotated_jpeg(stored, orientation), DecodePolicy())
    given = [row(24, 8, 16, 8, (32, 48))]
    seen = decoded.pixels[:, :, 0] > 128
    ((x1, y1, x2, y2),) = boxes_xyxy(decoded, given).astype(int)
    inside = np.zeros_like(seen)
    inside[y1:y2, x1:x2] = True
    assert np.array_equal(seen, inside)
    assert np.array_equal(seen, masks_nhw(decoded, given)[0].astype(bool))
    assert np.array_equal(seen, class_map(decoded, given, LABELS) == 1)


def test_boxes_are_cut_to_the_image() -> None:
    given = [row(2, 3, 5, 4, (10, 20)) | {"bbox": {"x": -4.5, "y": 3.25, "width": 30, "height": 90}}]
    assert boxes_xyxy(plain(), given).tolist() == [[0, 3.25, 20, 10]]


def test_small_objects_are_painted_on_large_ones_and_void_is_kept() -> None:
    shape = (10, 20)
    small, large = row(4, 4, 2, 2, shape, 8), row(2, 2, 8, 6, shape, 3)
    void, ignored = row(12, 0, 2, 2, shape, None), row(16, 0, 2, 2, shape, 3, ignore=True)
    classes = class_map(plain(), [small, large, void, ignored], LABELS)
    assert (classes[5, 5], classes[3, 3], classes[0, 0], classes[1, 13], classes[1, 17]) == (2, 1, 0, VOID, VOID)


def test_a_detection_sample() -> None:
    sample = SampleMaker("detection", LABELS, RULE)(plain(), [row(1, 2, 3, 4, (10, 20), 8)], 1)
    assert sample.image[:, 2, 5].tolist() == plain().pixels[2, 5].tolist()
    assert sample.target["boxes"].tolist() == [[1, 2, 4, 6]]
    assert (sample.target["boxes"].dtype, sample.target["labels"].tolist()) == (torch.float32, [2])


def test_a_box_beside_an_image_that_has_shrunk_is_left_out() -> None:
    given = [row(15, 2, 3, 4, (10, 20)), row(1, 2, 3, 4, (10, 20), 8)]
    target = SampleMaker("detection", LABELS, RULE)(plain(10, 12), given, 1).target
    assert (target["boxes"].tolist(), target["labels"].tolist()) == ([[1, 2, 4, 6]], [2])


@pytest.mark.parametrize("task", ["detection", "instance", "semantic"])
def test_an_image_without_objects_is_a_sample(task: Any) -> None:
    target = SampleMaker(task, LABELS, RULE)(plain(), [], 1).target
    expected = {"boxes": (0, 4), "labels": (0,), "masks": (0, 10, 20), "map": (10, 20)}
    assert {name: tuple(part.shape) for name, part in target.items()} == {name: expected[name] for name in target}
    assert not any(part.any() for part in target.values())


def test_semantic_samples_are_resized_by_the_models_rule() -> None:
    given = [row(0, 0, 10, 10, (10, 20))]
    sample = SampleMaker("semantic", LABELS, InputRule(min_size=5))(plain(), given, 1)
    assert (tuple(sample.image.shape), sample.image.dtype) == ((3, 5, 10), torch.uint8)
    assert sample.target["map"].tolist() == [[1] * 5 + [0] * 5] * 5


def test_images_are_stretched_where_the_rule_has_a_size() -> None:
    sample = SampleMaker("semantic", LABELS, InputRule(min_size=5).stretched((8, 8)))(plain(), [], 1)
    assert sample.image.shape[1:] == sample.target["map"].shape == (8, 8)


def test_objects_have_numbers_and_parts_of_a_region_too() -> None:
    shape = (10, 20)
    one, atop = row(1, 1, 8, 6, shape), row(2, 2, 2, 2, shape, 8)
    parts = np.zeros(shape, np.uint8)
    parts[8, 12], parts[9, 13], parts[8, 18] = 1, 1, 1  # the first two touch at a corner
    drawn = {"size": list(shape), "counts": masks.encode(parts).counts}
    region = row(0, 0, 1, 1, shape, kind="region", segmentation=drawn)
    void = row(15, 0, 2, 2, shape, None)
    found = instance_map(plain(), [one, atop, region, void])
    assert found[1, 1] != found[2, 2] != 0
    assert found[8, 12] == found[9, 13] != found[8, 18]
    assert not found[0, 15]
    assert sorted(np.unique(found)) == [0, 1, 2, 3, 4]


def test_border_weights_are_made_at_the_size_that_is_learned_from() -> None:
    given = [row(0, 0, 8, 10, (10, 20)), row(12, 0, 8, 10, (10, 20))]
    sample = SampleMaker("semantic", LABELS, InputRule(min_size=5), border=(10, 2))(plain(), given, 1)
    small = np.repeat([[1] * 4 + [0] * 2 + [2] * 4], 5, axis=0)
    assert np.array_equal(sample.target["border"].numpy(), border_weights(small, 10, 2))
    assert "border" not in SampleMaker("semantic", LABELS, InputRule())(plain(), given, 1).target


def test_memory_of_a_sample() -> None:
    sample = Sample(torch.zeros(3, 4, 5, dtype=torch.uint8), {"boxes": torch.zeros(2, 4)})
    assert sample.bytes == 3 * 4 * 5 + 2 * 4 * 4


@pytest.mark.parametrize("task", ["detection", "instance", "semantic"])
def test_a_blank_has_nothing_to_learn_from(task: Any) -> None:
    target = blank(task).target
    assert (target["map"] == VOID).all() if task == "semantic" else len(target["boxes"]) == 0


def test_a_mask_of_another_size_than_its_image_is_an_error() -> None:
    message = r"image 9 is 10 x 20 pixels.*annotation 4 is 20 x 10.*ingest"
    with pytest.raises(DatasetError, match=message):
        SampleMaker("semantic", LABELS, RULE)(plain(), [row(0, 0, 5, 5, (20, 10), annotation_id=4)], 9)
