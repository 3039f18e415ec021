"""Every loss on cases worked by hand, and against loops over the pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from shardlens.models.errors import ModelError
from shardlens.models.losses.segmentation import VOID, SegmentationLoss, cross_entropy, focal, soft_dice

TRUTH = torch.tensor([[[0, 1], [1, 0]]])
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.0])


def certain(truth: torch.Tensor, classes: int) -> torch.Tensor:
    """Logits that say `truth` (N, H, W) beyond doubt."""
    return F.one_hot(truth, classes).permute(0, 3, 1, 2).float() * 100


def guesses(void: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (3, 4, 6, 5) and a truth with void in it."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 3, (3, 6, 5), generator=generator)
    if void:
        truth[1, :2] = VOID
    return torch.randn(3, 4, 6, 5, generator=generator), truth


def pixel_by_pixel(cost, logits, truth, class_weights, pixel_weights) -> float:
    """The mean over images of the weighted mean of `cost`(p of the true class), by loops."""
    p, images = logits.double().softmax(1).numpy(), []
    for n in range(len(truth)):
        total = weight = 0.0
        for y in range(truth.shape[1]):
            for x in range(truth.shape[2]):
                k = int(truth[n, y, x])
                if k == VOID:
                    continue
                w = float(class_weights[k]) + (0.0 if pixel_weights is None else float(pixel_weights[n, y, x]))
                total, weight = total + w * cost(p[n, k, y, x]), weight + w
        images.append(total / weight if weight else 0.0)
    return float(np.mean(images))


def test_cross_entropy_of_one_image_is_torchs() -> None:
    logits, truth = guesses()
    for weights in (None, WEIGHTS):
        expected = F.cross_entropy(logits[1:2], truth[1:2], weight=weights, ignore_index=VOID)
        assert cross_entropy(logits[1:2], truth[1:2], weights).item() == pytest.approx(expected.item(), rel=1e-6)


def test_cross_entropy_equals_a_loop() -> None:
    logits, truth = guesses()
    border = torch.rand(3, 6, 5) * 10
    for weights, pixels in ((WEIGHTS, None), (torch.ones(4), border), (WEIGHTS, border)):
        expected = pixel_by_pixel(lambda p: -math.log(p), logits, truth, weights, pixels)
        assert cross_entropy(logits, truth, weights, pixels).item() == pytest.approx(expected, rel=1e-5)


def test_a_pixel_between_objects_counts_by_its_border_weight() -> None:
    # costs ln 2 and ln 4 at weights 1 + 3 and 1 + 0: (4 ln 2 + ln 4) / 5 = 6/5 ln 2
    logits = torch.tensor([[[[0.0, 0.0]], [[0.0, math.log(3)]]]])
    loss = cross_entropy(logits, torch.tensor([[[0, 0]]]), pixel_weights=torch.tensor([[[3.0, 0.0]]]))
    assert loss.item() == pytest.approx(6 / 5 * math.log(2))


def test_focal_by_hand() -> None:
    # p = 1/2 and 1/4: ((1/2)^2 ln 2 + (3/4)^2 ln 4) / 2 = 11/16 ln 2
    logits = torch.tensor([[[[0.0, 0.0]], [[0.0, math.log(3)]]]])
    assert focal(logits, torch.tensor([[[0, 0]]])).item() == pytest.approx(11 / 16 * math.log(2))


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_equals_a_loop(gamma: float) -> None:
    logits, truth = guesses()
    expected = pixel_by_pixel(lambda p: -((1 - p) ** gamma) * math.log(p), logits, truth, WEIGHTS, None)
    assert focal(logits, truth, gamma, WEIGHTS).item() == pytest.approx(expected, rel=1e-4)


def test_focal_without_gamma_is_the_cross_entropy() -> None:
    assert focal(*guesses(), 0.0).item() == pytest.approx(cross_entropy(*guesses()).item())


def test_focal_of_the_right_answer_is_0_and_has_a_slope() -> None:
    logits = certain(TRUTH, 2).requires_grad_()
    loss = focal(logits, TRUTH, 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(0)
    assert logits.grad.isfinite().all()


def test_every_image_counts_the_same_however_much_of_it_is_void() -> None:
    logits, truth = guesses()
    for loss in (cross_entropy, focal, soft_dice):
        alone = [loss(logits[i : i + 1], truth[i : i + 1]).item() for i in range(3)]
        assert loss(logits, truth).item() == pytest.approx(np.mean(alone), rel=1e-5)


@pytest.mark.parametrize("loss", [cross_entropy, soft_dice, focal])
def test_an_image_of_void_costs_nothing(loss: object) -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    cost = loss(logits, torch.full((1, 4, 4), VOID))  # type: ignore[operator]
    cost.backward()
    assert cost.item() == 0
    assert not logits.grad.any()


def test_an_image_of_labels_that_weigh_nothing_costs_nothing() -> None:
    assert cross_entropy(torch.randn(1, 2, 2, 2), TRUTH, torch.zeros(2)).item() == 0


def test_dice_of_the_right_answer_is_0_and_of_the_wrong_one_is_1() -> None:
    assert soft_dice(certain(TRUTH, 2), TRUTH).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice(certain(1 - TRUTH, 2), TRUTH).item() == pytest.approx(1, abs=1e-6)


def test_dice_of_no_idea_is_a_third() -> None:
    # of 4 pixels, 2 of each class, all p = 1/2: 1 - 2 (2 / 2) / (2 + 4 / 4) = 1/3 for both classes
    assert soft_dice(torch.zeros(1, 2, 2, 2), TRUTH).item() == pytest.approx(1 / 3)


def test_dice_of_classes_that_are_not_there_is_left_out() -> None:
    # as above, but p = 1/3: 1 - 2 (2 / 3) / (2 + 4 / 9) = 5 / 11, from the two classes that are there
    assert soft_dice(torch.zeros(1, 3, 2, 2), TRUTH).item() == pytest.approx(5 / 11)


def test_dice_equals_a_loop() -> None:
    logits, truth = guesses()
    p, images = logits.softmax(1).numpy(), []
    for n in range(3):
        seen, losses = truth[n].numpy() != VOID, []
        for k in np.unique(truth[n].numpy()[seen]):
            y, q = (truth[n].numpy() == k)[seen].astype(float), p[n, k][seen]
            losses.append(1 - 2 * (y * q).sum() / ((y**2).sum() + (q**2).sum()))
        images.append(np.mean(losses))
    assert soft_dice(logits, truth).item() == pytest.approx(np.mean(images), abs=1e-6)


def test_a_combination_has_its_parts_by_weight() -> None:
    logits, truth = guesses()
    parts = SegmentationLoss(cross_entropy=0.5, dice=0, focal=3, gamma=1, class_weights=WEIGHTS.tolist())(logits, truth)
    expected = {
        "cross_entropy": 0.5 * cross_entropy(logits, truth, WEIGHTS),
        "focal": 3 * focal(logits, truth, 1, WEIGHTS),
    }
    assert {name: part.item() for name, part in parts.items()} == {name: e.item() for name, e in expected.items()}


def test_class_weights_are_one_a_class() -> None:
    with pytest.raises(ModelError, match="2 class weights for 4 classes"):
        SegmentationLoss(class_weights=(1.0, 2.0))(*guesses())
