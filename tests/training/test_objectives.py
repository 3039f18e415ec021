from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.spec import InputRule
from pipeline.training.objectives import VOID, cross_entropy, detection, semantic, soft_dice
from tests.training.plain_models import FailingDetector, PlainSegmenter


def certain(truth: torch.Tensor, classes: int) -> torch.Tensor:
    """Logits that say `truth` (N, H, W) beyond doubt."""
    return F.one_hot(truth, classes).permute(0, 3, 1, 2).float() * 100


TRUTH = torch.tensor([[[0, 1], [1, 0]]])


def test_cross_entropy_of_one_image_is_torchs() -> None:
    logits, truth = torch.randn(1, 4, 5, 6), torch.randint(0, 4, (1, 5, 6))
    truth[0, 0] = VOID
    assert cross_entropy(logits, truth).item() == pytest.approx(
        F.cross_entropy(logits, truth, ignore_index=VOID).item()
    )


def test_every_image_counts_the_same_however_much_of_it_is_void() -> None:
    logits, truth = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    truth[0, 1:] = VOID
    alone = [cross_entropy(logits[i : i + 1], truth[i : i + 1]).item() for i in range(2)]
    assert cross_entropy(logits, truth).item() == pytest.approx(np.mean(alone))


@pytest.mark.parametrize("loss", [cross_entropy, soft_dice])
def test_an_image_of_void_costs_nothing(loss: object) -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    cost = loss(logits, torch.full((1, 4, 4), VOID))  # type: ignore[operator]
    cost.backward()
    assert cost.item() == 0
    assert not logits.grad.any()


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
    logits, truth = torch.randn(3, 4, 6, 5), torch.randint(0, 3, (3, 6, 5))
    truth[1, :2] = VOID
    p, images = logits.softmax(1).numpy(), []
    for n in range(3):
        seen, losses = truth[n].numpy() != VOID, []
        for k in np.unique(truth[n].numpy()[seen]):
            y, q = (truth[n].numpy() == k)[seen].astype(float), p[n, k][seen]
            losses.append(1 - 2 * (y * q).sum() / ((y**2).sum() + (q**2).sum()))
        images.append(np.mean(losses))
    assert soft_dice(logits, truth).item() == pytest.approx(np.mean(images), abs=1e-6)


def test_images_of_two_sizes_cost_the_mean_of_each_alone() -> None:
    rule, model = InputRule(multiple=4), PlainSegmenter(3, auxiliary=True)
    images = [torch.randint(0, 255, (3, *size), dtype=torch.uint8) for size in ((8, 6), (5, 9))]
    maps = [torch.randint(0, 3, image.shape[1:], dtype=torch.uint8) for image in images]
    both = semantic(model, images, maps, rule, dice_weight=0.5)
    each = [semantic(model, [i], [m], rule, dice_weight=0.5) for i, m in zip(images, maps, strict=True)]
    assert set(both) == {"cross_entropy", "dice", "auxiliary"}
    for name, loss in both.items():
        assert loss.item() == pytest.approx(np.mean([losses[name].item() for losses in each]), abs=1e-6)


def test_the_auxiliary_classifier_counts_half() -> None:
    model, image, truth = PlainSegmenter(3, auxiliary=True), torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(4, 4)
    parts = semantic(model, [image], [truth.byte()], InputRule(), dice_weight=0)
    expected = cross_entropy(model(torch.zeros(1, 3, 4, 4))["aux"], truth[None].long()) / 2
    assert parts["auxiliary"].item() == pytest.approx(expected.item())
    assert "dice" not in parts


def test_detection_gives_the_models_own_losses() -> None:
    images = [torch.full((3, 8, 8), 255, dtype=torch.uint8)] * 2
    parts = detection(FailingDetector(), images, [{"boxes": torch.zeros(3, 4)}, {"boxes": torch.zeros(0, 4)}])
    assert {name: loss.item() for name, loss in parts.items()} == {"area": 12.0}
