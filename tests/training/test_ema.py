from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from shardlens.pipeline.training.ema import Ema


def moved(network: nn.Module, by: float) -> nn.Module:
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor += 1 if not tensor.is_floating_point() else by
    return network


def constant(value: float) -> nn.Linear:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, value)
    return network


def test_the_average_follows_slowly_once_the_start_is_forgotten() -> None:
    network = constant(0.0)
    ema = Ema(network, 0.15)
    found = [ema.average["weight"].item() for _ in range(3) if ema.update(moved(network, 1.0)) is None]
    first = 0.9  # decay 1/10, then 0.15 where 2/11 and 3/12 would be more
    second = first + 0.85 * (2 - first)
    assert found == pytest.approx([first, second, second + 0.85 * (3 - second)])


def test_statistics_are_averaged_and_counters_copied() -> None:
    network = nn.BatchNorm2d(2)
    ema = Ema(network, 0.9)
    ema.update(moved(network, 1.0))
    assert ema.average["num_batches_tracked"] == 1
    assert ema.average["running_mean"].tolist() == pytest.approx([0.9, 0.9])


def test_what_stays_is_kept_to_the_bit() -> None:
    network = nn.Linear(7, 7)
    ema = Ema(network, 0.99)
    for _ in range(5):
        ema.update(network)
    assert torch.equal(ema.average["weight"], network.weight)


def test_the_average_is_lent_to_the_network_and_taken_back() -> None:
    network = constant(0.0)
    ema = Ema(network, 0.9)
    ema.update(moved(network, 1.0))
    with ema.applied(network):
        assert network.weight.item() == pytest.approx(0.9)
    assert network.weight.item() == 1.0


def test_an_average_goes_on_from_its_state() -> None:
    network = constant(0.0)
    ema = Ema(network, 0.9)
    ema.update(moved(network, 1.0))
    other = Ema(constant(5.0), 0.9)
    other.load_state_dict(copy.deepcopy(ema.state_dict()))
    for each in (ema, other):
        each.update(moved(copy.deepcopy(network), 1.0))
    assert torch.equal(ema.average["weight"], other.average["weight"])
