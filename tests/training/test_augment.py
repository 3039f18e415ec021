from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shardlens.models.losses.segmentation import VOID
from shardlens.models.spec import InputRule
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.training.augment.augmenter import Augmenter
from shardlens.pipeline.training.augment.color import color_matrix
from shardlens.pipeline.training.augment.config import Augmentation
from shardlens.pipeline.training.augment.mixing import copy_paste, mosaic, window
from shardlens.pipeline.training.augment.scene import mirrored
from shardlens.pipeline.training.augment.visible import boxes_around, cut_boxes, cut_masks
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.data import TrainingData
from shardlens.pipeline.training.prepare import prepare
from shardlens.pipeline.training.samples import Sample

Make = Callable[..., TrainConfig]
EVERYTHING: dict[str, Any] = {
    **{"flip_vertical": True, "scale": 0.3, "translate": 0.1, "rotate": 20.0, "hue": 0.1, "saturation": 0.3},
    **{"brightness": 0.3, "contrast": 0.3, "mosaic": 0.5, "crop": (48, 56)},
}


def discs(seed: int, task: str = "instance", size: tuple[int, int] = (60, 80), count: int = 4) -> Sample:
    """Bright ellipses of one color each on black: what is seen of an object tells where it is."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    masks = np.zeros((count, *size), np.uint8)
    for i in range(count):  # one in each column, so that none hides another
        middle = (rng.uniform(15, size[0] - 15), (i + 0.5) * size[1] / count)
        masks[i] = ((rows + 0.5 - middle[0]) / 12) ** 2 + ((columns + 0.5 - middle[1]) / 9) ** 2 <= 1
    drawn = torch.from_numpy(masks)
    labels = torch.arange(1, count + 1)
    painted = (drawn * (labels * 50)[:, None, None]).amax(0).to(torch.uint8)
    image = painted.expand(3, -1, -1).contiguous()
    if task == "semantic":
        return Sample(image, {"map": (painted / 50).to(torch.uint8)})
    target = {"boxes": boxes_around(drawn), "labels": labels}
    return Sample(image, target | ({"masks": drawn} if task == "instance" else {}))


def disc(seed: int) -> Sample:
    """One white disc, and its box alone."""
    sample = discs(seed, "detection", count=1)
    return Sample(sample.image * 5, sample.target)


def augmenter(task: Any = "instance", **given: Any) -> Augmenter:
    return Augmenter(Augmentation(**{"flip": False, **given}), task, 3, 10)


def equal(one: Sample, other: Sample) -> bool:
    return torch.equal(one.image, other.image) and all(torch.equal(v, other.target[k]) for k, v in one.target.items())


def seen(sample: Sample, label: int) -> Tensor:
    """Pixels painted with the color of a label, (H, W) bool."""
    return (sample.image[0].int() - 50 * label).abs() < 12


MOVES: list[dict[str, Any]] = [
    {"flip": True},
    {"flip_vertical": True},
    {"scale": 0.4},
    {"translate": 0.2},
    {"rotate": 90.0},
    {"elastic": 2.0},
    {"crop": (40, 50)},
    {"crop": (100, 90)},
    {"mosaic": 1.0},
    {"copy_paste": 1.0},
    {"scale": 0.3, "rotate": 30.0, "translate": 0.1, "elastic": 1.0, "crop": (50, 50)},
]


@pytest.mark.parametrize("moves", MOVES, ids=str)
def test_masks_and_boxes_stay_on_their_objects(moves: dict[str, Any]) -> None:
    change, found = augmenter(**moves), 0
    for image_id in range(8):
        others = [discs(100 + i) for i in change.others(0, image_id, 50)]
        made = change(discs(image_id), others, 0, image_id)
        for box, label, mask in zip(made.target["boxes"], made.target["labels"], made.target["masks"], strict=True):
            there = seen(made, int(label))
            union = (there | mask.bool()).sum()
            assert (mask.bool() & ~there).sum() <= 0.3 * union + 4  # borders are interpolated
            assert torch.equal(boxes_around(mask[None])[0], box)
            found += 1
    assert found > 12


@pytest.mark.parametrize("moves", [m for m in MOVES if "copy_paste" not in m and "elastic" not in m], ids=str)
def test_boxes_alone_hold_their_objects(moves: dict[str, Any]) -> None:
    change = augmenter("detection", **moves)
    for image_id in range(8):
        others = [disc(100 + i) for i in change.others(0, image_id, 50)]
        made = change(disc(image_id), others, 0, image_id)
        height, width = made.image.shape[-2:]
        for x1, y1, x2, y2 in made.target["boxes"].tolist():
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height
            if "mosaic" not in moves:  # where there are several
                rows, columns = torch.nonzero(made.image[0] > 190, as_tuple=True)
                assert ((columns + 1.5 >= x1) & (columns <= x2 + 0.5) & (rows + 1.5 >= y1) & (rows <= y2 + 0.5)).all()


@pytest.mark.parametrize("moves", [m for m in MOVES if "copy_paste" not in m] + [{"multi_scale": 0.3}], ids=str)
def test_maps_stay_on_their_pixels(moves: dict[str, Any]) -> None:
    change = augmenter("semantic", **moves)
    for image_id in range(4):
        others = [discs(100 + i, "semantic") for i in change.others(0, image_id, 50)]
        made = change(discs(image_id, "semantic"), others, 0, image_id)
        assert made.target["map"].shape == made.image.shape[-2:]
        for label in range(1, 5):
            here, there = made.target["map"] == label, seen(made, label)
            assert (here & ~there).sum() <= 0.3 * here.sum() + 4


def test_outside_of_the_image_nothing_is_learned() -> None:
    made = augmenter("semantic", crop=(100, 90))(discs(0, "semantic"), [], 0, 0)
    outside = made.target["map"] == VOID
    assert int(outside.sum()) == 100 * 90 - 60 * 80
    assert made.image[:, outside].float().mean(1).tolist() == [124, 116, 104]


@pytest.mark.parametrize("task", ["detection", "instance", "semantic"])
def test_an_image_is_changed_by_seed_epoch_and_id_alone(task: Any) -> None:
    change, again = augmenter(task, **EVERYTHING), augmenter(task, **EVERYTHING)
    cases = [(epoch, image_id) for epoch in (0, 1) for image_id in (-2, 2, 5)]
    made = {}
    for epoch, image_id in cases:
        others = [discs(i, task) for i in change.others(epoch, image_id, 9)]
        made[epoch, image_id] = change(discs(1, task), others, epoch, image_id)
    for epoch, image_id in reversed(cases):
        torch.manual_seed(epoch)
        others = [discs(i, task) for i in again.others(epoch, image_id, 9)]
        assert equal(made[epoch, image_id], again(discs(1, task), others, epoch, image_id))
    assert len({tuple(s.image.flatten().tolist()) for s in made.values()}) == len(cases)


def test_the_source_is_left_as_it_was() -> None:
    source, change = discs(1), augmenter(**{**EVERYTHING, "mosaic": 0.0, "elastic": 2.0})
    for image_id in range(4):
        change(source, [], 0, image_id)
    assert equal(source, discs(1))


def test_the_workers_share_the_same_images_as_one(config: Make) -> None:
    settings = config(**EVERYTHING, batch_size=3, accumulate=2)
    data = [TrainingData(prepare(settings), InputRule()) for _ in range(3)]
    one = {
        i: s
        for share in data[0].epoch(1, 0, 1)
        for b in share.batches
        for i, s in zip(b.image_ids, b.samples, strict=True)
    }
    for rank in (0, 1):
        for share in data[1 + rank].epoch(1, rank, 2, begin=1):
            for batch in share.batches:
                assert all(equal(one[i], s) for i, s in zip(batch.image_ids, batch.samples, strict=True))


def test_the_last_epochs_are_plain() -> None:
    change = Augmenter(Augmentation(mosaic=1.0, plain_epochs=2), "detection", 0, 5)
    assert [len(change.others(epoch, 1, 9)) for epoch in range(5)] == [3, 3, 3, 0, 0]


def test_mosaic_and_copy_paste_are_made_as_often_as_asked_for() -> None:
    change = augmenter(mosaic=0.25, copy_paste=0.5)
    found = [len(change.others(0, image_id, 50)) for image_id in range(2000)]
    assert [found.count(n) / 2000 for n in (3, 1, 0)] == pytest.approx([0.25, 0.5, 0.25], abs=0.04)


def test_boxes_hardly_seen_are_dropped() -> None:
    boxes = torch.tensor([[-80.0, 0, 20, 10], [-79, 0, 20, 10], [0, 0, 1.9, 50], [90, 90, 120, 120], [200, 0, 210, 9]])
    inside, kept = cut_boxes(boxes, 100, 100, 0.2)
    assert kept.tolist() == [True, True, False, False, False]
    assert inside.tolist() == [[0, 0, 20, 10], [0, 0, 20, 10]]


def test_masks_hardly_seen_are_dropped() -> None:
    masks = torch.zeros(3, 10, 10, dtype=torch.uint8)
    masks[0, :2, :5] = 1
    masks[1, 4:6, 4:9] = 1
    boxes, kept = cut_masks(masks, torch.tensor([60, 50, 4]), 0.2)
    assert kept.tolist() == [False, True, False]
    assert boxes.tolist() == [[4, 4, 9, 6]]


@pytest.mark.parametrize("task", ["detection", "instance"])
def test_no_box_is_ever_degenerate(task: Any) -> None:
    change = augmenter(task, **{**EVERYTHING, "scale": 0.9, "translate": 0.8, "min_visible": 0.0})
    for image_id in range(60):
        others = [discs(i, task, count=8) for i in change.others(0, image_id, 9)]
        boxes = change(discs(image_id, task, count=8), others, 0, image_id).target["boxes"]
        assert ((boxes[:, 2:] - boxes[:, :2]) >= 2).all()


@pytest.mark.parametrize("task", ["detection", "instance"])
def test_an_image_without_objects_stays_one(task: Any) -> None:
    empty = discs(0, task, count=4)
    empty = Sample(empty.image, {name: tensor[:0] for name, tensor in empty.target.items()})
    made = augmenter(task, **EVERYTHING)(empty, [empty] * 3, 0, 0)
    assert {name: len(tensor) for name, tensor in made.target.items()} == dict.fromkeys(empty.target, 0)


def test_a_mirror_exchanges_left_and_right_everywhere() -> None:
    sample = discs(2)
    there = mirrored(sample)
    assert torch.equal(there.target["masks"], sample.target["masks"].flip(-1))
    assert torch.equal(there.target["boxes"], boxes_around(there.target["masks"]))
    assert torch.equal(there.image, sample.image.flip(-1))
    assert equal(mirrored(there), sample)
    assert torch.equal(
        mirrored(discs(2, "semantic"), vertically=True).target["map"], discs(2, "semantic").target["map"].flip(-2)
    )


def test_border_weights_move_with_their_map() -> None:
    plain = discs(0, "semantic")
    sample = Sample(plain.image, {**plain.target, "border": plain.target["map"].float()})
    made = augmenter("semantic", rotate=40.0, crop=(90, 90), mosaic=1.0)(sample, [sample] * 3, 0, 1)
    inside = made.target["map"] != VOID
    assert torch.equal(made.target["border"][inside], made.target["map"][inside].float())
    assert made.target["border"][~inside].eq(0).all()


def test_a_window_of_a_small_image_is_filled_up() -> None:
    part = window(discs(0), np.random.default_rng(0), (100, 30), 0.0)
    assert part.image.shape == (3, 100, 30)
    assert part.target["masks"].shape[1:] == (100, 30)


def test_a_mosaic_has_the_size_of_its_first_image_and_objects_of_all() -> None:
    samples = [discs(i, size=(60 + 10 * i, 80)) for i in range(4)]
    made = mosaic(samples, np.random.default_rng(1), 0.2)
    assert made.image.shape == (3, 60, 80)
    assert len(made.target["labels"]) == len(made.target["masks"]) == len(made.target["boxes"]) > 4


def test_pasted_instances_hide_what_is_under_them() -> None:
    made = copy_paste(discs(0), discs(9), np.random.default_rng(0), 0.2)
    assert len(made.target["labels"]) > 4
    assert made.target["masks"].sum(0).max() == 1


def test_gray_stays_gray_and_brightness_what_it_is() -> None:
    matrix = color_matrix(0.3, 1.7)
    torch.testing.assert_close(matrix @ torch.ones(3), torch.ones(3))
    luma = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(luma @ matrix, luma)
    torch.testing.assert_close(color_matrix(0.0, 1.0), torch.eye(3))


def test_a_third_of_the_circle_turns_red_green() -> None:
    red = torch.tensor([1.0, 0, 0])
    assert int((color_matrix(1 / 3, 1.0) @ red).argmax()) == 1


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        ("detection", {"elastic": 3.0}, "elastic is 3.0: expected 0, for detection models"),
        ("semantic", {"copy_paste": 0.5}, "copy_paste is 0.5: expected 0, for semantic models"),
    ],
)
def test_what_a_task_cannot_do_is_an_error(task: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        augmenter(task, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hue": 0.6}, "hue is 0.6: expected a share of at most 0.5"),
        ({"scale": 1.0}, "scale is 1.0: expected a share less than 1"),
        ({"mosaic": 1.5}, "mosaic is 1.5"),
        ({"crop": (0, 9)}, r"crop is \(0, 9\): expected a height and a width"),
        ({"rotate": -5.0}, "rotate is -5.0: expected degrees"),
    ],
)
def test_settings_are_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augmentation(**given)
