"""Panoptic FPN: the merging by hand, and what the network gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from shardlens import models
from shardlens.models.errors import ModelError
from shardlens.models.segmentation.panoptic_merging import NOTHING, STUFF, THING, MergeRule, merge
from tests.models.samples import sample_images, sample_network

RULE = MergeRule(stuff=(3, 5), least_visible=0.5, stuff_area=4, stuff_probability=0.5)


def columns(*spans: tuple[int, int], width: int = 12) -> Tensor:
    """(N, 2, width) masks of the columns from a to b."""
    masks = torch.zeros(len(spans), 2, width, dtype=torch.bool)
    for mask, (begin, end) in zip(masks, spans, strict=True):
        mask[:, begin:end] = True
    return masks


def semantic(classes: list[int], sure: float = 0.9) -> Tensor:
    """(4, 2, W) with each column's class `sure`, the others the rest."""
    one = torch.nn.functional.one_hot(torch.tensor(classes), 4).T.float()
    return (one * sure + (1 - one) * (1 - sure) / 3)[:, None].expand(-1, 2, -1)


def test_the_surer_thing_keeps_what_two_claim_and_one_hidden_by_half_goes() -> None:
    masks = columns((0, 6), (4, 8), (1, 6))
    found = merge(masks, torch.tensor([1, 2, 1]), torch.tensor([0.9, 0.8, 0.7]), semantic([THING] * 12), RULE)
    assert found["panoptic"][0].tolist() == [1] * 6 + [2] * 2 + [0] * 4
    assert found["segment_labels"].tolist() == [1, 2]
    assert found["segment_scores"].tolist() == pytest.approx([0.9, 0.8])


def test_a_thing_of_which_less_than_half_is_free_is_dropped() -> None:
    found = merge(columns((0, 6), (3, 8)), torch.tensor([1, 2]), torch.tensor([0.8, 0.9]), semantic([THING] * 12), RULE)
    assert found["panoptic"][0].tolist() == [2] * 3 + [1] * 5 + [0] * 4
    found = merge(columns((0, 6), (4, 6)), torch.tensor([1, 2]), torch.tensor([0.9, 0.8]), semantic([THING] * 12), RULE)
    assert found["segment_labels"].tolist() == [1]


def test_stuff_takes_what_things_leave_unless_it_is_little() -> None:
    classes = [STUFF] * 4 + [THING] * 3 + [STUFF + 1] + [STUFF] * 2 + [NOTHING] * 2
    found = merge(columns((2, 5)), torch.tensor([1]), torch.tensor([0.9]), semantic(classes), RULE)
    assert found["panoptic"][0].tolist() == [2, 2, 1, 1, 1, 0, 0, 0, 2, 2, 0, 0]
    assert found["segment_labels"].tolist() == [1, 3]
    assert found["segment_scores"].tolist() == pytest.approx([0.9, 0.9])
    assert found["segment_things"].tolist() == [True, False]


def test_void_is_where_neither_is_sure() -> None:
    unsure = semantic([STUFF] * 12, sure=0.45)
    no_things = (columns(), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    found = merge(*no_things, unsure, RULE)
    assert not found["panoptic"].any()
    assert [len(found[f"segment_{name}"]) for name in ("labels", "scores", "things")] == [0, 0, 0]
    papers = MergeRule(stuff=(3, 5), least_visible=0.5, stuff_area=4, stuff_probability=0)
    assert (merge(*no_things, unsure, papers)["panoptic"] == 1).all()


def test_empty_masks_are_no_segments() -> None:
    found = merge(columns((3, 3)), torch.tensor([1]), torch.tensor([0.9]), semantic([THING] * 12), RULE)
    assert not found["panoptic"].any()
    assert len(found["segment_labels"]) == 0


@torch.inference_mode()
def test_the_instance_branch_finds_no_stuff() -> None:
    found = merge(columns((0, 6), (6, 8)), torch.tensor([3, 1]), torch.tensor([0.9, 0.8]), semantic([THING] * 12), RULE)
    assert found["segment_labels"].tolist() == [1]


def test_probabilities_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        merge(columns(), torch.zeros(0, dtype=torch.int64), torch.zeros(0), semantic([STUFF] * 12) * torch.nan, RULE)


def test_no_pixel_has_two_segments_and_none_is_without_pixels() -> None:
    model = sample_network("panoptic_fpn")
    for found in model(sample_images((65, 97), (64, 64))):
        count = len(found["segment_labels"])
        assert count > 0
        assert found["panoptic"].unique().tolist() in (list(range(1, count + 1)), list(range(count + 1)))
        assert len(found["segment_scores"]) == len(found["segment_things"]) == count
        assert all(
            bool(thing) == (label != 2)
            for thing, label in zip(found["segment_things"], found["segment_labels"].tolist(), strict=True)
        )


def test_the_branch_learns_stuff_things_and_nothing() -> None:
    model = models.build("panoptic_fpn", 5, {"backbone": "resnet18", "stuff": "2,4", "min_size": 64, "max_size": 96})
    assert model.semantic.classifier.out_channels == 4
    assert model.table[:5].tolist() == [NOTHING, THING, STUFF, THING, STUFF + 1]
    truth = model._truth([{"map": torch.tensor([[0, 1, 2], [3, 4, 255]], dtype=torch.uint8)}], [(2, 3)], (3, 4))
    assert truth[0].tolist() == [[0, 1, 2, 255], [1, 3, 255, 255], [255] * 4]


@pytest.mark.parametrize("stuff", ["0", "5", "sky", "-1"])
def test_stuff_is_named_by_labels(stuff: str) -> None:
    with pytest.raises(ModelError, match="expected numbers of labels, 1 to 4, such as 3,4"):
        models.build("panoptic_fpn", 5, {"stuff": stuff})


def test_training_needs_targets() -> None:
    model = sample_network("panoptic_fpn").train()
    with pytest.raises(ModelError, match="needs targets"):
        model(sample_images((64, 64)))
