import math

import pytest
import torch

from shardlens.models.losses.boxes import focal_loss, giou_loss, iou_loss

WHOLE, HALF, APART = [0.0, 0, 4, 4], [0.0, 0, 4, 2], [6.0, 0, 10, 4]


def random_boxes(seed, count=20):
    generator = torch.Generator().manual_seed(seed)
    corners = 50 * torch.rand(count, 2, generator=generator)
    return torch.cat([corners, corners + 1 + 40 * torch.rand(count, 2, generator=generator)], dim=1)


def overlap(a, b):
    """Shared area and union of two boxes, in plain arithmetic."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared, sum(areas) - shared


def test_iou_and_giou_by_hand():
    a, b = torch.tensor([WHOLE, WHOLE, WHOLE]), torch.tensor([WHOLE, HALF, APART])
    torch.testing.assert_close(iou_loss(a, b), torch.tensor([0.0, 0.5, 1.0]))
    # apart: the hull is 10 x 4, of which 8 of 40 are in neither
    torch.testing.assert_close(giou_loss(a, b), torch.tensor([0.0, 0.5, 1 + 8 / 40]))


def test_boxes_without_area_cost_one():
    nothing = torch.zeros(1, 4, requires_grad=True)
    loss = iou_loss(nothing, torch.zeros(1, 4))
    loss.sum().backward()
    assert loss.item() == 1
    assert torch.isfinite(nothing.grad).all()


def test_iou_and_giou_against_a_loop():
    a, b = random_boxes(0), random_boxes(1)
    for x, y, iou, giou in zip(a.tolist(), b.tolist(), iou_loss(a, b), giou_loss(a, b), strict=True):
        shared, union = overlap(x, y)
        hull = (max(x[2], y[2]) - min(x[0], y[0])) * (max(x[3], y[3]) - min(x[1], y[1]))
        assert iou.item() == pytest.approx(1 - shared / union, abs=1e-5)
        assert giou.item() == pytest.approx(1 - shared / union + (hull - union) / hull, abs=1e-5)


def test_focal_loss_by_hand():
    logits = torch.tensor([0.0, 0.0, math.log(3)])
    truth = torch.tensor([1.0, 0.0, 1.0])  # scores 1/2, 1/2, 3/4
    expected = [0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2), 0.25 / 16 * math.log(4 / 3)]
    torch.testing.assert_close(focal_loss(logits, truth, alpha=0.25, gamma=2), torch.tensor(expected))


def test_focal_loss_against_a_loop():
    generator = torch.Generator().manual_seed(2)
    logits, truth = 3 * torch.randn(40, generator=generator), (torch.rand(40, generator=generator) > 0.7).float()
    total = 0.0
    for logit, label in zip(logits.tolist(), truth.tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        right, share = (p, 0.3) if label else (1 - p, 0.7)
        total -= share * (1 - right) ** 1.5 * math.log(right)
    found = focal_loss(logits, truth, alpha=0.3, gamma=1.5, reduction="sum").item()
    assert found == pytest.approx(total, rel=1e-5)
