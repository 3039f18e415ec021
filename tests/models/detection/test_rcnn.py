import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

from shardlens.models import build, find
from shardlens.models.detection.linear_machines import fit_ridge, fit_svm
from shardlens.models.detection.rcnn import RCNN, headless, warped
from shardlens.models.detection.rcnn_mining import ClassExamples, MiningRule
from shardlens.models.errors import ModelError

OPTIONS = {"backbone": "resnet18", "side": 48, "search": "single", "proposals": 60, "svm_cost": 1.0, "ridge": 1.0}


def drawn(seed: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A red and a green rectangle on gray."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.full((3, 64, 80), 0.3) + torch.randn(3, 64, 80, generator=generator) * 0.01
    x, y = (int(torch.randint(2, high, (), generator=generator)) for high in (10, 30))
    boxes = torch.tensor([[x, y, x + 22, y + 18], [x + 35, y, x + 55, y + 30]], dtype=torch.float32)
    for (x1, y1, x2, y2), channel in zip(boxes.int().tolist(), (0, 1), strict=True):
        image[channel, y1:y2, x1:x2] = 0.9
    return image.clamp(0, 1), {"boxes": boxes, "labels": torch.tensor([1, 2])}


@pytest.fixture(scope="module")
def fitted() -> tuple[RCNN, dict[str, float]]:
    torch.manual_seed(0)
    model = build("rcnn", 3, OPTIONS).train()
    assert isinstance(model, RCNN)
    images, targets = zip(*(drawn(seed) for seed in range(4)), strict=True)
    return model, model.fit_batches([(list(images[:2]), list(targets[:2])), (list(images[2:]), list(targets[2:]))])


def test_it_finds_what_it_was_fitted_to(fitted):
    model, figures = fitted
    assert figures.keys() == {"hinge"}
    assert 0 < figures["hinge"] < 1  # what machines of weight 0 leave
    image, target = drawn(1)
    (found,) = model.eval()([image])
    for label, box in zip(target["labels"], target["boxes"], strict=True):
        best = torch.where(found["labels"] == label)[0][0]
        assert box_iou(found["boxes"][best][None], box[None]) > 0.7


def test_a_class_without_examples_is_never_detected():
    torch.manual_seed(0)
    model = build("rcnn", 4, {**OPTIONS, "score_threshold": 0.001}).train()
    image, target = drawn(0)
    assert model.eval()([image])[0]["labels"].tolist() == []
    model.train().fit_batches([([image], [target])])
    assert set(model.eval()([image])[0]["labels"].tolist()) == {1, 2}


def test_the_machines_are_in_the_state(fitted):
    model, _ = fitted
    other = build("rcnn", 3, OPTIONS).eval()
    image, _ = drawn(2)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other([image]), model.eval()([image]))
    assert other.svm_weights.abs().sum() > 0
    assert not list(filter(lambda p: p.requires_grad, other.parameters()))


@pytest.mark.parametrize(
    ("backbone", "side", "reason"),
    [("alexnet", 40, "Output size is too small"), ("vit_b_16", 227, "Expected 224 but got 227")],
)
def test_a_side_that_the_backbone_does_not_take(backbone, side, reason):
    with torch.device("meta"), pytest.raises(ModelError, match=rf"option side is {side}; the backbone .*{reason}"):
        build("rcnn", 3, {"backbone": backbone, "side": side})


def test_a_gradient_is_refused():
    assert find("rcnn").fits_at_once
    with pytest.raises(ModelError, match="fit it with fit_batches"):
        build("rcnn", 3, OPTIONS).train()([torch.rand(3, 32, 32)], [])


def test_the_regressors_targets_are_the_paper_s():
    examples = ClassExamples(MiningRule())
    regions = torch.tensor([[0.0, 0, 10, 20], [1, 1, 11, 21], [40, 40, 50, 50]])
    own = torch.tensor([[1.0, 2, 13, 20]])
    examples.take(torch.eye(3), regions, own, torch.ones(1, 3))
    ((codes,), (rows,)) = examples.codes, examples.regions
    assert rows.tolist() == [[1, 0, 0], [0, 1, 0]]  # those with an IoU above 0.6 alone
    # G: center 7, 11, sides 12, 18; P: center 5, 10, sides 10, 20
    expected = [(7 - 5) / 10, (11 - 10) / 20, np.log(12 / 10), np.log(18 / 20)]
    np.testing.assert_allclose(codes[0], expected, rtol=1e-5)


def test_negatives_cover_less_than_a_third_and_hard_ones_are_kept():
    examples = ClassExamples(MiningRule(refit=2, cost=10.0))
    own = torch.tensor([[0.0, 0, 10, 10]])
    regions = torch.tensor([[0.0, 0, 10, 4], [0, 0, 10, 2], [50, 50, 60, 60]])  # IoU 0.4, 0.2, 0
    features = torch.tensor([[5.0, 5], [1, 0], [0, 1]])
    examples.take(features, regions, own, torch.tensor([[4.0, 4.0]]))
    assert examples.machine is not None
    kept = torch.cat(examples.negatives)
    assert [5.0, 5.0] not in kept.tolist()
    before = len(kept)
    easy_and_hard = torch.tensor([[-9.0, -9.0], [3.0, 3.0]])
    examples.take(easy_and_hard, regions[1:], torch.zeros(0, 4), torch.zeros(0, 2))
    assert torch.cat(examples.negatives)[before:].tolist() == [[3.0, 3.0]]


def test_before_the_first_object_only_the_latest_negatives_are_kept():
    examples = ClassExamples(MiningRule(refit=5))
    nothing = torch.zeros(0, 4), torch.zeros(0, 2)
    for number in range(6):
        rows = torch.tensor([[number, 0.0], [number, 1.0], [number, 2.0]])
        examples.take(rows, torch.tensor([[0.0, 0, 10, 10]] * 3), *nothing)
    assert torch.cat(examples.negatives).tolist() == [[4, 1], [4, 2], [5, 0], [5, 1], [5, 2]]
    assert sum(each.untyped_storage().nbytes() for each in examples.negatives) == 5 * 2 * 4
    examples.take(torch.zeros(0, 2), torch.zeros(0, 4), torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[-4.0, -4]]))
    assert examples.machine is not None


def test_a_machine_balances_its_weights_and_its_slack():
    torch.manual_seed(0)
    x, positive = torch.randn(80, 6).double(), torch.arange(80) < 20
    weights, bias = fit_svm(x, positive, cost=0.1, positive_weight=2.0)
    sign, costs = torch.where(positive, 1.0, -1.0).double(), torch.where(positive, 0.2, 0.1).double()
    pull = 2 * costs * sign * (1 - sign * (x @ weights + bias)).clamp(min=0)
    torch.testing.assert_close(weights, pull @ x, rtol=0, atol=1e-3)
    assert bias / 10 == pytest.approx(10 * float(pull.sum()), abs=1e-3)


@pytest.mark.parametrize("count", [5, 40])
def test_ridge_solves_its_equations(count):
    torch.manual_seed(0)
    x, y = torch.randn(count, 12).double(), torch.randn(count, 3).double()
    weights, biases = fit_ridge(x, y, 2.0)
    residual = x @ weights.T + biases - y
    torch.testing.assert_close(x.T @ residual + 2.0 * weights.T, torch.zeros(12, 3).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(residual.sum(0), torch.zeros(3).double(), rtol=0, atol=1e-9)


def test_sixteen_pixels_of_context():
    image = torch.zeros(1, 3, 60, 60)
    image[:, :, 20:40, 20:40] = 1
    (window,) = warped(image, torch.tensor([[20.0, 20, 40, 40]]), 72)
    assert window[0, 36, 17:55].min() > 0.99
    assert window[0, 36, :15].max() < 0.01


def test_outside_of_the_image_is_its_mean_color():
    (window,) = warped(torch.ones(1, 3, 40, 40), torch.tensor([[0.0, 0, 40, 40]]), 72)
    assert window[0, 36, 36] == 1
    assert window[0, 3, 36] == 0


def test_features_of_the_last_layer_but_one():
    with torch.device("meta"):
        assert headless("alexnet")(torch.zeros(2, 3, 227, 227)).shape == (2, 4096)
        assert isinstance(headless("resnet50").fc, nn.Identity)
    with pytest.raises(ModelError, match="no backbone is called 'alexnett'; nearest: alexnet"):
        headless("alexnett")
