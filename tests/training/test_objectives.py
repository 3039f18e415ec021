from __future__ import annotations

import numpy as np
import pytest
import torch

from shardlens.models.errors import ModelError
from shardlens.models.losses.segmentation import SegmentationLoss, cross_entropy
from shardlens.models.spec import InputRule
from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.objectives import criterion, detection, semantic
from tests.training.plain_models import FailingDetector, PlainSegmenter

LABELS = ("__background__", "disc", "square")
CROSS_ENTROPY = SegmentationLoss(dice=0)


class Named(torch.nn.Module):
    """Gives the same map under many names."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict.fromkeys(self.names, images)


def config(**given: object) -> TrainConfig:
    return TrainConfig("shapes", model="unet", **given)  # type: ignore[arg-type]


def target(map_hw: torch.Tensor, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"map": map_hw.byte(), **more}


def test_images_of_two_sizes_cost_the_mean_of_each_alone() -> None:
    rule, model = InputRule(multiple=4), PlainSegmenter(3, auxiliary=True)
    images = [torch.randint(0, 255, (3, *size), dtype=torch.uint8) for size in ((8, 6), (5, 9))]
    targets = [target(torch.randint(0, 3, i.shape[1:]), border=torch.rand(i.shape[1:])) for i in images]
    loss = SegmentationLoss(dice=0.5, focal=0.25)
    both = semantic(model, images, targets, rule, loss)
    each = [semantic(model, [i], [t], rule, loss) for i, t in zip(images, targets, strict=True)]
    assert set(both) == {"cross_entropy", "dice", "focal", "aux"}
    for name, part in both.items():
        assert part.item() == pytest.approx(np.mean([losses[name].item() for losses in each]), abs=1e-6)


def test_extra_classifiers_count_by_their_names() -> None:
    image, truth = torch.randint(0, 255, (3, 4, 4), dtype=torch.uint8), target(torch.randint(0, 3, (4, 4)))
    parts = semantic(Named("out", "aux", "aux_2", "stack1"), [image], [truth], InputRule(), SegmentationLoss())
    whole = (parts["cross_entropy"] + parts["dice"]).item()
    assert parts["aux"].item() == parts["aux_2"].item() == pytest.approx(0.5 * whole)
    assert parts["stack1"].item() == pytest.approx(whole)


def test_a_map_under_a_strange_name_is_refused() -> None:
    image, truth = torch.zeros(3, 4, 4, dtype=torch.uint8), target(torch.zeros(4, 4))
    with pytest.raises(ModelError, match="maps under 'side': expected out, and names that begin with aux or stack"):
        semantic(Named("out", "side"), [image], [truth], InputRule(), CROSS_ENTROPY)


def test_border_weights_come_into_the_cross_entropy() -> None:
    model, image = PlainSegmenter(3, auxiliary=False), torch.randint(0, 255, (3, 4, 4), dtype=torch.uint8)
    truth, border = torch.randint(0, 3, (4, 4)), torch.rand(4, 4) * 10
    parts = semantic(model, [image], [target(truth, border=border)], InputRule(), CROSS_ENTROPY)
    expected = cross_entropy(model(image[None] / 255)["out"], truth[None], None, border[None])
    assert parts["cross_entropy"].item() == pytest.approx(expected.item())


def test_detection_gives_the_models_own_losses() -> None:
    images = [torch.full((3, 8, 8), 255, dtype=torch.uint8)] * 2
    parts = detection(FailingDetector(), images, [{"boxes": torch.zeros(3, 4)}, {"boxes": torch.zeros(0, 4)}])
    assert {name: loss.item() for name, loss in parts.items()} == {"area": 12.0}


def test_the_configuration_chooses_the_loss() -> None:
    chosen = config(cross_entropy_weight=0, focal_weight=2, focal_gamma=1, class_weight=("disc=3",))
    assert criterion(chosen, LABELS) == SegmentationLoss(0, 1.0, 2, 1, (1.0, 3.0, 1.0))
    assert criterion(config(), LABELS) == SegmentationLoss()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class_weight": ("disk=2",)}, r"disk=2.0: there is no such label; expected one of disc, "),
        ({"class_weight": ("disc",)}, "'disc': expected NAME=NUMBER, for example --class-weight disc=0.5"),
        ({"class_weight": ("disc=-1",)}, "expected 0 or more"),
        ({"border_sigma": 0}, "border_sigma is 0: expected a number above 0"),
        ({"cross_entropy_weight": 0, "dice_weight": 0}, "expected at least one loss with a weight above 0"),
    ],
)
def test_a_loss_that_cannot_be_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        criterion(config(**given), LABELS)
