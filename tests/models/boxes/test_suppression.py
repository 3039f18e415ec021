import math

import pytest
import torch
from torchvision.ops import batched_nms, box_iou

from shardlens.models.boxes.suppression import Suppression, soft_nms, suppress
from shardlens.models.detection.selection import selection
from shardlens.models.errors import ModelError


def crowd(seed: int, count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 60
    boxes = torch.cat([corner, corner + 10 + torch.rand(count, 2, generator=generator) * 20], dim=1)
    return boxes.double(), torch.rand(count, generator=generator).double()


def naive(boxes: torch.Tensor, scores: torch.Tensor, rule: Suppression) -> list[tuple[int, float]]:
    """The paper's pseudo code, a pair at a time."""
    left = dict(enumerate(scores.tolist()))
    kept = []
    while left:
        best = max(left, key=left.__getitem__)
        if left[best] < rule.floor:
            break
        kept.append((best, left.pop(best)))
        for other in left:
            overlap = box_iou(boxes[best][None], boxes[other][None]).item()
            if rule.method == "gaussian":
                left[other] *= math.exp(-(overlap**2) / rule.sigma)
            elif overlap > rule.iou:
                left[other] *= 1 - overlap
    return kept


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("seed", range(4))
def test_soft_nms_equals_the_loop(method, seed):
    boxes, scores = crowd(seed)
    rule = Suppression(method, iou=0.3, floor=0.05)
    index, lowered = soft_nms(boxes, scores, rule, 1000)
    expected = naive(boxes, scores, rule)
    assert index.tolist() == [i for i, _ in expected]
    assert 10 < len(expected) < 60
    torch.testing.assert_close(lowered, torch.tensor([s for _, s in expected], dtype=torch.float64))


def test_a_case_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60]])
    scores = torch.tensor([0.9, 0.8, 0.1])
    index, lowered = soft_nms(boxes, scores, Suppression("linear", iou=0.3), 10)
    assert index.tolist() == [0, 1, 2]
    torch.testing.assert_close(lowered, torch.tensor([0.9, 0.4, 0.1]))  # 0.8 (1 - 0.5)
    _, lowered = soft_nms(boxes, scores, Suppression("gaussian", sigma=0.5), 10)
    torch.testing.assert_close(lowered, torch.tensor([0.9, 0.8 * math.exp(-0.5), 0.1]))


def test_scores_only_fall_and_the_limit_keeps_the_best():
    boxes, scores = crowd(9)
    everything, lowered = soft_nms(boxes, scores, Suppression("gaussian"), 1000)
    assert (lowered.diff() <= 0).all()
    index, _ = soft_nms(boxes, scores, Suppression("gaussian"), 7)
    assert index.tolist() == everything[:7].tolist()


@pytest.mark.parametrize("method", ["hard", "linear", "gaussian"])
def test_classes_leave_each_other_alone(method):
    boxes, scores = crowd(2)
    labels = torch.arange(60) % 3
    index, lowered = suppress(boxes, scores, labels, Suppression(method, iou=0.3), 60)
    for label in range(3):
        own = torch.where(labels == label)[0]
        alone, alone_scores = suppress(boxes[own], scores[own], labels[own], Suppression(method, iou=0.3), 60)
        assert index[labels[index] == label].tolist() == own[alone].tolist()
        torch.testing.assert_close(lowered[labels[index] == label], alone_scores)


def test_hard_is_torchvisions():
    boxes, scores = crowd(5)
    labels = torch.arange(60) % 2
    index, _ = suppress(boxes, scores, labels, Suppression("hard", iou=0.4), 1000)
    assert index.tolist() == batched_nms(boxes, scores, labels, 0.4).tolist()


@pytest.mark.parametrize("method", ["hard", "linear", "gaussian"])
def test_nothing_to_suppress(method):
    index, scores = suppress(
        torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), Suppression(method), 5
    )
    assert (index.shape, scores.shape) == ((0,), (0,))


def test_an_unknown_method():
    with pytest.raises(ModelError, match="suppression is 'firm'; expected one of hard, linear, gaussian"):
        selection(0.1, 0.5, 10, "firm")


def test_detections_are_cut_thresholded_and_limited():
    select = selection(0.2, 0.5, 2)
    boxes = torch.tensor([[-5.0, -5, 10, 10], [20, 20, 40, 40], [50, 0, 60, 10], [12, 12, 14, 14], [0, 0, 1, 1]])
    found = select(boxes, torch.tensor([0.5, 0.9, 0.95, 0.3, 0.1]), torch.tensor([1, 2, 1, 1, 1]), (30, 45))
    assert found["boxes"].tolist() == [[20, 20, 40, 30], [0, 0, 10, 10]]  # the third lies outside
    assert (found["labels"].tolist(), found["scores"].tolist()) == ([2, 1], pytest.approx([0.9, 0.5]))
