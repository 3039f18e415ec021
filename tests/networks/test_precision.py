"""What `auto` means, by what the machine gains."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from shardlens.pipeline.networks import precision
from shardlens.pipeline.networks.precision import autocast, bf16_speedup, resolve_precision


@pytest.fixture(autouse=True)
def _measured_anew() -> Iterator[None]:
    bf16_speedup.cache_clear()
    yield
    bf16_speedup.cache_clear()


@pytest.mark.parametrize(
    ("bf16", "expected"), [(1.0, "bf16"), (1.5, "bf16"), (1.6, "fp32"), (2.3, "fp32"), (16.0, "fp32")]
)
def test_auto_is_bf16_where_a_convolution_gains_by_it(
    bf16: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_convolution", lambda name: {"fp32": 2.0, "bf16": bf16}[name])
    assert resolve_precision("auto", "cpu") == expected
    assert resolve_precision("fp32", "cpu") == "fp32"


def test_what_disturbs_a_single_convolution_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"fp32": iter([9.0, 2.0, 7.0, 2.1] + [3.0] * 9), "bf16": iter([30.0, 1.0, 8.0, 1.2] + [3.0] * 9)}
    monkeypatch.setattr(precision, "_convolution", lambda name: next(taken[name]))
    assert bf16_speedup() == 2.0


def test_an_emulated_one_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def convolution(name: str) -> float:
        asked.append(name)
        return {"fp32": 0.01, "bf16": 1.0}[name]

    monkeypatch.setattr(precision, "_convolution", convolution)
    assert bf16_speedup() == 0.01
    assert asked.count("bf16") == 2


def test_measuring_draws_no_random_numbers_and_is_done_once() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = bf16_speedup()
    assert torch.equal(torch.get_rng_state(), state)
    assert bf16_speedup() == first > 0


def test_a_gpu_that_is_elsewhere_is_taken_for_one_that_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_precision("auto", "cuda") == "bf16"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert resolve_precision("auto", "cuda") == "fp32"


@pytest.mark.parametrize("name", precision.PRECISIONS)
def test_a_network_computes_in_the_precision_asked_for(name: str) -> None:
    with autocast(torch.device("cpu"), name):
        found = torch.nn.functional.linear(torch.ones(2, 3), torch.ones(4, 3))
    assert found.dtype == precision.PRECISIONS[name]
