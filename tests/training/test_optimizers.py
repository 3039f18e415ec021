from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.training.optimization import Optimization
from shardlens.pipeline.training.optimizers import build, gradient_norm, rate, set_rate


def rates(**given: Any) -> list[float]:
    return [rate(step, 100, Optimization(**given)) for step in range(100)]


def test_biases_and_norms_do_not_decay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    decaying, other = build(Optimization(weight_decay=0.01), model).param_groups
    assert [p.shape for p in decaying["params"]] == [model[0].weight.shape]
    assert (decaying["weight_decay"], other["weight_decay"], len(other["params"])) == (0.01, 0.0, 3)


def test_the_backbone_learns_at_its_own_rate() -> None:
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    config = Optimization(optimizer="sgd", backbone_factor=0.1)
    optimizer = build(config, model, {"backbone.weight", "backbone.bias"})
    set_rate(optimizer, 0.5)
    found = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert [found[id(p)] for p in model.parameters()] == pytest.approx([0.05, 0.05, 0.5, 0.5])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_weights_are_neither_moved_nor_decayed(optimizer: Any) -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    before = model.weight.clone()
    step = build(Optimization(optimizer=optimizer, weight_decay=0.5), model)
    model(torch.ones(1, 2)).sum().backward()
    step.step()
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize(("optimizer", "key", "value"), [("sgd", "momentum", 0.8), ("adamw", "betas", (0.8, 0.999))])
def test_momentum_is_the_optimizers(optimizer: Any, key: str, value: Any) -> None:
    (group, _) = build(Optimization(optimizer=optimizer, momentum=0.8), nn.Linear(2, 2)).param_groups
    assert group[key] == value


@pytest.mark.parametrize("schedule", ["cosine", "step", "poly", "constant"])
def test_the_rate_rises_in_a_line_first(schedule: Any) -> None:
    assert rates(schedule=schedule, warmup=0.1)[:11] == pytest.approx([*(0.1 * k for k in range(1, 11)), 1])


def test_a_cosine_falls_from_the_end_of_the_warm_up() -> None:
    found = rates(warmup=0.1)
    assert found[55] == pytest.approx(0.5)
    assert all(a > b > 0 for a, b in itertools.pairwise(found[10:]))


def test_steps_fall_at_shares_of_the_whole_run() -> None:
    found = rates(schedule="step", milestones=(0.5, 0.9), gamma=0.1, warmup=0.2)
    assert found[20:] == pytest.approx([1.0] * 30 + [0.1] * 40 + [0.01] * 10)


def test_poly_is_the_share_left_to_a_power() -> None:
    found = rates(schedule="poly", power=2, warmup=0)
    assert found[:51:25] == pytest.approx([1, 0.75**2, 0.25])


def test_a_constant_rate_stays() -> None:
    assert rates(schedule="constant", warmup=0) == [1.0] * 100


def test_the_rate_may_rise_to_the_end() -> None:
    assert rate(9, 10, Optimization(warmup=1.0)) == 1


@pytest.mark.parametrize(("limit", "left"), [(1.0, 1.0), (0.0, 5.0), (10.0, 5.0)])
def test_long_gradients_are_shortened(limit: float, left: float) -> None:
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert gradient_norm([weight], limit) == pytest.approx(5)
    assert math.hypot(*weight.grad.tolist()) == pytest.approx(left, rel=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"schedule": "linear"}, "schedule is 'linear': expected one of cosine, step, poly, constant"),
        ({"milestones": (0.9, 0.5)}, r"milestones is \(0.9, 0.5\): expected shares of the run between 0 and 1, rising"),
        ({"ema": 1.0}, "ema is 1.0: expected 0 or more, less than 1"),
        ({"accumulate": 0}, "accumulate is 0: expected 1 or more"),
        ({"backbone_factor": -0.1}, "backbone_factor is -0.1: expected 0 or more"),
    ],
)
def test_settings_are_checked(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Optimization(**given)
