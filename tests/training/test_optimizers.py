from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from pipeline.training.optimizers import build, gradient_norm, rate, set_rate


def test_biases_and_norms_do_not_decay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    decaying, other = build("adamw", model, 0.1, 0.01).param_groups
    assert [p.shape for p in decaying["params"]] == [model[0].weight.shape]
    assert (decaying["weight_decay"], other["weight_decay"], len(other["params"])) == (0.01, 0.0, 3)


def test_frozen_weights_are_left_out() -> None:
    model = nn.Linear(2, 2).requires_grad_(False)
    model.bias.requires_grad_(True)
    (group,) = build("sgd", model, 0.1, 0.01).param_groups
    assert group["params"] == [model.bias]
    assert group["momentum"] == 0.9


def test_rate_rises_in_a_line_and_falls_along_a_cosine() -> None:
    rates = [rate(step, 100, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert all(a > b > 0 for a, b in itertools.pairwise(rates[10:]))


def test_rate_without_warm_up_begins_at_the_peak() -> None:
    assert rate(0, 10, 0.0) == 1


def test_rate_may_rise_to_the_end() -> None:
    assert rate(9, 10, 1.0) == 1


def test_set_rate_reaches_every_group() -> None:
    optimizer = build("adamw", nn.Linear(2, 2), 1.0, 0.1)
    set_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


@pytest.mark.parametrize(("limit", "left"), [(1.0, 1.0), (0.0, 5.0), (10.0, 5.0)])
def test_long_gradients_are_shortened(limit: float, left: float) -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert gradient_norm([weight], limit) == pytest.approx(5)
    assert math.hypot(*weight.grad.tolist()) == pytest.approx(left, rel=1e-4)
