"""Gradients of the overlap losses against Darknet's, worked out box by box in plain numbers."""

from __future__ import annotations

import math

import pytest
import torch

from shardlens.models import build
from shardlens.models.darknet.overlap import darknet_gradient, overlap_loss

KINDS = ("iou", "giou", "diou", "ciou")


def overlap(low, high, wanted_low, wanted_high):
    """Signed length that two intervals share."""
    return min(high, wanted_high) - max(low, wanted_low)


def by_hand(kind, box, wanted):
    """Darknet's steps for center x, y, width, height, upwards: of one box (cx, cy, w, h), by finite case distinctions."""
    (x, y, w, h), (tx, ty, tw, th) = box, wanted
    left, right, top, bottom = x - w / 2, x + w / 2, y - h / 2, y + h / 2
    tleft, tright, ttop, tbottom = tx - tw / 2, tx + tw / 2, ty - th / 2, ty + th / 2
    wide, high = overlap(left, right, tleft, tright), overlap(top, bottom, ttop, tbottom)
    shared = wide * high
    union = w * h + tw * th - shared
    hull_w, hull_h = max(right, tright) - min(left, tleft), max(bottom, tbottom) - min(top, ttop)
    steps = {}
    for side, d_area, d_shared, d_hull in (
        ("l", -h, -high if left > tleft else 0, -hull_h if left < tleft else 0),
        ("r", h, high if right < tright else 0, hull_h if right > tright else 0),
        ("t", -w, -wide if top > ttop else 0, -hull_w if top < ttop else 0),
        ("b", w, wide if bottom < tbottom else 0, hull_w if bottom > tbottom else 0),
    ):
        d_union, hull = d_area - d_shared, hull_w * hull_h
        inside = (union * d_shared - shared * d_union) / union**2
        filled = (hull * d_union - union * d_hull) / hull**2
        apart = wide <= 0 or high <= 0
        steps[side] = inside if kind != "giou" else filled if apart else inside + filled
    found = [steps["l"] + steps["r"], steps["t"] + steps["b"], steps["r"] - steps["l"], steps["b"] - steps["t"]]
    if kind in ("iou", "giou"):
        return found
    gap, diagonal = (x - tx) ** 2 + (y - ty) ** 2, hull_w**2 + hull_h**2
    out = {"l": left < tleft, "r": right > tright, "t": top < ttop, "b": bottom > tbottom}
    pull = [
        (2 * (tx - x) * diagonal - 2 * hull_w * (out["r"] - out["l"]) * gap) / diagonal**2,
        (2 * (ty - y) * diagonal - 2 * hull_h * (out["b"] - out["t"]) * gap) / diagonal**2,
        2 * hull_w * (out["r"] + out["l"]) / 2 * gap / diagonal**2,
        2 * hull_h * (out["b"] + out["t"]) / 2 * gap / diagonal**2,
    ]
    if kind == "ciou":
        angle = math.atan(tw / th) - math.atan(w / h)
        shape = 4 / math.pi**2 * angle**2
        alpha = shape / (1 - shared / union + shape + 1e-6)
        pull[2] += alpha * 8 / math.pi**2 * angle * h
        pull[3] -= alpha * 8 / math.pi**2 * angle * w
    return pull if wide <= 0 or high <= 0 else [a + b for a, b in zip(found, pull, strict=True)]


def corners(box):
    x, y, w, h = box
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_darknets(kind):
    generator = torch.Generator().manual_seed(3)
    boxes, wanted = (torch.rand(200, 4, generator=generator, dtype=torch.float64) * 0.4 + 0.1 for _ in range(2))
    wanted[:100, :2] = boxes[:100, :2] + 0.02  # half of them overlap for sure
    expected = [[-step for step in by_hand(kind, *pair)] for pair in zip(boxes.tolist(), wanted.tolist(), strict=True)]
    found = darknet_gradient(
        kind,
        torch.tensor([corners(b) for b in boxes.tolist()], dtype=torch.float64),
        torch.tensor([corners(b) for b in wanted.tolist()], dtype=torch.float64),
    )
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["iou", "giou"])
def test_sides_have_twice_the_derivative_and_centers_once(kind):
    boxes = torch.tensor([[0.3, 0.2, 0.6, 0.55]], dtype=torch.float64)
    wanted = torch.tensor([[0.35, 0.25, 0.7, 0.5]], dtype=torch.float64)
    center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    code = torch.cat([center, size], dim=1).requires_grad_()
    moved = torch.cat([code[:, :2] - code[:, 2:] / 2, code[:, :2] + code[:, 2:] / 2], dim=1)
    (true,) = torch.autograd.grad(overlap_loss(kind, moved, wanted, torch.ones(4, dtype=torch.float64)).sum(), code)
    expected = true * torch.tensor([1, 1, 2, 2])
    torch.testing.assert_close(darknet_gradient(kind, boxes, wanted), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_without_a_size_give_finite_gradients(kind):
    boxes, wanted = torch.tensor([[0.5, 0.5, 0.5, 0.5]] * 2), torch.tensor([[0.4, 0.4, 0.6, 0.6], [0.5, 0.5, 0.5, 0.5]])
    assert darknet_gradient(kind, boxes, wanted).isfinite().all()


CFG = """[net]
width=64
height=64
channels=3
[convolutional]
filters=7
size=1
stride=1
activation={activation}
[yolo]
anchors=20,30
classes=2
iou_loss={kind}
iou_normalizer=0.07
scale_x_y=1.05
{more}
"""


def raw_gradient(kind, raw, box, more="", activation="linear"):
    """By the values that a [yolo] of one cell is given; and the loss."""
    model = build("darknet", 2, {"cfg": CFG.format(kind=kind, more=more, activation=activation)})
    values = torch.zeros(1, 64 * 64, 7)
    values[0, 0] = torch.tensor(raw)
    values.requires_grad_()
    from shardlens.models.darknet.loss import Truth

    parts = model.loss(model.decoder, values, Truth(torch.tensor([0]), torch.tensor([corners(box)]), torch.tensor([1])))
    (found,) = torch.autograd.grad(parts["box"], values)
    slot = found[0].abs().sum(1).argmax()
    return found[0, slot], parts["box"].item(), model, slot


RAW = [0.4, -0.3, 1.1, 0.7, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cfgs_gradients_are_laid_on_the_raw_values(kind):
    box = (0.4 / 64, 0.7 / 64, 0.5, 0.4)
    found, value, model, slot = raw_gradient(kind, RAW, box)
    assert slot == 0
    decoded = model.decoder.boxes(torch.tensor(RAW).expand(1, 64 * 64, 7))[0, 0].tolist()
    own = (
        (decoded[0] + decoded[2]) / 2,
        (decoded[1] + decoded[3]) / 2,
        decoded[2] - decoded[0],
        decoded[3] - decoded[1],
    )
    steps = by_hand(kind, own, box)
    expected = [
        -0.07 * step * math.exp(raw if i > 1 else 0) for i, (step, raw) in enumerate(zip(steps, RAW, strict=False))
    ]
    assert found.tolist() == pytest.approx([*expected, 0, 0, 0], rel=1e-3, abs=1e-6)
    assert 0 < value < 0.07 * 2


def test_max_delta_bounds_them():
    free, _, _, _ = raw_gradient("ciou", RAW, (0.4 / 64, 0.7 / 64, 0.5, 0.4))
    bound, _, _, _ = raw_gradient("ciou", RAW, (0.4 / 64, 0.7 / 64, 0.5, 0.4), "max_delta=0.01")
    assert bound.tolist() == pytest.approx(free.clamp(-0.01, 0.01).tolist())
    assert free.abs().max() > 0.01


def test_new_coords_are_not_stretched():
    raw = [0.4, 0.7, 0.6, 0.5, 0.5, 0.5, 0.5]
    found, _, model, _ = raw_gradient("giou", raw, (0.4 / 64, 0.7 / 64, 0.5, 0.4), "new_coords=1", "logistic")
    decoded = model.decoder.boxes(torch.tensor(raw).expand(1, 64 * 64, 7))[0, 0].tolist()
    own = (
        (decoded[0] + decoded[2]) / 2,
        (decoded[1] + decoded[3]) / 2,
        decoded[2] - decoded[0],
        decoded[3] - decoded[1],
    )
    steps = by_hand("giou", own, (0.4 / 64, 0.7 / 64, 0.5, 0.4))
    assert found[:4].tolist() == pytest.approx([-0.07 * step for step in steps], rel=1e-3, abs=1e-6)
