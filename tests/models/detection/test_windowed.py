"""The localiser, the sliding window, the convolutionised classifier and OverFeat."""

import pytest
import torch
from torch import Tensor, nn

from shardlens.models import build
from shardlens.models.detection.localiser import slots
from shardlens.models.detection.window_classifier import WindowClassifier, WindowTrunk, listed
from shardlens.models.errors import ModelError
from tests.models.small import SMALL


def small(name: str, **options: object) -> nn.Module:
    return build(name, 4, {**SMALL[name].options, **options})


@pytest.fixture(scope="module")
def classifier() -> WindowClassifier:
    torch.manual_seed(0)
    return WindowClassifier(WindowTrunk("resnet18", 32, 8, 16), 5).eval()


@torch.no_grad()
def test_convolutions_give_the_dense_layers_logits(classifier: WindowClassifier):
    windows = torch.rand(4, 3, 32, 32)
    found = classifier.convolved(windows)
    assert found.shape == (4, 5, 1, 1)
    torch.testing.assert_close(found[:, :, 0, 0], classifier(windows), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_larger_image_gives_a_grid_of_window_scores(classifier: WindowClassifier):
    found = classifier.convolved(torch.rand(1, 3, 48, 64))
    assert found.shape == (1, 5, 3, 5)  # (48 - 32) / 8 + 1, (64 - 32) / 8 + 1
    assert torch.isfinite(found).all()


def test_a_grid_cell_is_its_window_s():
    """With a backbone that looks at each stride's patch alone, what lies around a window cannot matter."""
    trunk = WindowTrunk("resnet18", 32, 8, 16)
    trunk.backbone = Patches(trunk.backbone.channels)  # type: ignore[assignment]
    classifier = WindowClassifier(trunk, 5)
    image = torch.rand(1, 3, 48, 64)
    grid = listed(classifier.convolved(image))[0]
    cut = torch.cat([image[:, :, y : y + 32, x : x + 32] for y in (0, 8, 16) for x in (0, 8, 16, 24, 32)])
    torch.testing.assert_close(grid, classifier(cut), rtol=0, atol=1e-5)


class Patches(nn.Module):
    """One convolution whose kernel is its stride."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = channels
        self.patch = nn.Conv2d(3, channels[0], 8, 8)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.patch(images)]


def test_a_window_must_be_whole_strides():
    with pytest.raises(ModelError, match="window is 36; it must be a multiple of the stride 8"):
        WindowTrunk("resnet18", 36, 8, 16)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("sliding_window", "features_stride"),
        ("sliding_window", "stride"),
        ("overfeat", "stride"),
        ("convolutional_classifier", "stride"),
        ("overfeat", "window"),
    ],
)
def test_a_length_of_nothing_is_refused(name: str, option: str):
    with pytest.raises(ModelError, match=f"option {option} is 0; it must be at least 1"):
        small(name, **{option: 0})


@torch.no_grad()
def test_overfeat_s_grid_for_each_scale_and_its_shared_features():
    model = small("overfeat", window=32, stride=8, scales="1,1.5").eval()
    seen: list[tuple[int, ...]] = []
    model.trunk.second.register_forward_hook(lambda *_: seen.append(()))
    hooked: list[tuple[int, ...]] = []
    model.trunk.backbone.register_forward_hook(lambda _, inputs, output: hooked.append(tuple(output[0].shape[2:])))
    logits, edges = model.judge(torch.rand(2, 3, 64, 96))
    assert hooked == [(8, 12), (12, 18)]  # one pass for both heads at each scale
    assert [model.pyramid.grid((64, 96), scale) for scale in (1.0, 1.5)] == [(5, 9), (9, 15)]
    assert logits.shape == (2, 5 * 9 + 9 * 15, 4)
    assert edges.shape == (2, 5 * 9 + 9 * 15, 4, 4)


def test_overfeat_s_default_sizes_are_the_paper_s():
    with torch.device("meta"):
        model = build("overfeat", 21)
    assert [round(245 * scale) for scale in model.pyramid.scales] == [245, 282, 316, 390, 424, 461]


def test_overfeat_moves_each_window_by_its_edges():
    model = small("overfeat", scales="1", merge_limit=0.0, score_threshold=0.6).eval()
    windows = model.pyramid.boxes((64, 64))
    scores = torch.zeros(len(windows), 4)
    scores[0, 2] = 0.9
    found = model._detect(
        scores, (windows + 4.0).expand(4, -1, 4), (64, 64), torch.ones(len(windows), dtype=torch.bool)
    )
    assert found["boxes"].tolist() == [[4, 4, 36, 36]]
    assert found["labels"].tolist() == [2]


def test_the_sliding_window_finds_what_its_classifier_knows():
    model = small("sliding_window", scales="1", score_threshold=0.5, nms_threshold=0.2).eval()
    model.classifier = Bright()
    image = torch.zeros(3, 64, 64)
    image[:, 16:48, 24:56] = 1
    (found,) = model([image])
    assert found["boxes"][0].round().tolist() == [24, 16, 56, 48]
    assert found["labels"].tolist() == [3]


class Bright(nn.Module):
    """Class 3 where a window is bright all over."""

    def forward(self, windows: Tensor) -> Tensor:
        logits = torch.zeros(len(windows), 4)
        logits[:, 3] = 8 * (windows.flatten(1).mean(1) - 2.0)
        return logits


def test_the_localiser_s_answers():
    model = small("localiser", objects=3)
    logits, boxes = model.answers(torch.rand(2, 3, 64, 64))
    assert (tuple(logits.shape), tuple(boxes.shape)) == ((2, 3, 4), (2, 3, 4))


def test_slots_go_from_left_to_right():
    boxes = torch.tensor([[50.0, 0, 60, 10], [0, 0, 10, 10], [20, 0, 24, 4], [20, 30, 60, 50]])
    found, labels = slots(boxes, torch.tensor([1, 2, 3, 4]), 3)  # the smallest is left out
    assert labels.tolist() == [2, 4, 1]
    assert found.equal(boxes[[1, 3, 0]])
    found, labels = slots(boxes[:1], torch.tensor([1]), 3)
    assert labels.tolist() == [1, 0, 0]
    assert slots(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 2)[1].tolist() == [0, 0]


def test_a_level_pair_goes_from_top_to_bottom():
    boxes = torch.tensor([[0.0, 50, 10, 60], [0, 0, 10, 10]])
    assert slots(boxes, torch.tensor([1, 2]), 2)[1].tolist() == [2, 1]


def test_the_head_alone_then_end_to_end():
    torch.manual_seed(0)
    images = [torch.rand(3, 64, 64), torch.rand(3, 70, 50)]
    targets = [{"boxes": torch.tensor([[5.0, 5, 30, 30]]), "labels": torch.tensor([1])}] * 2
    first = small("localiser", train_backbone=False).train()
    before = {name: value.clone() for name, value in first.backbone.state_dict().items()}
    sum(first(images, targets).values()).backward()
    assert all(parameter.grad is None for parameter in first.backbone.parameters())
    assert all(value.equal(before[name]) for name, value in first.backbone.state_dict().items())
    second = small("localiser", train_backbone=True).train()
    second.load_state_dict(first.state_dict())
    sum(second(images, targets).values()).backward()
    assert all(parameter.grad is not None for parameter in second.parameters())


def test_boxes_come_back_in_the_image_s_pixels():
    model = small("localiser", objects=1, score_threshold=0.0).eval()
    with torch.no_grad():
        for parameter in (*model.boxes.parameters(), *model.classes.parameters()):
            parameter.zero_()
        model.boxes[-1].bias.copy_(torch.tensor([0.25, 0.5, 0.75, 1.0]))
        (found,) = model([torch.rand(3, 40, 200)])
    torch.testing.assert_close(found["boxes"], torch.tensor([[50.0, 20, 150, 40]]))
