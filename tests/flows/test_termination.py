"""A signal that ends a flow run is answered as Prefect does, also where Ray has set a handler of its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from shardlens.flows.termination import prefect_termination, stage_executor
from shardlens.pipeline.executors.base import ExecutorConfig


class Terminated(BaseException):
    """What the handler set before raises, as Prefect's does."""


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    def terminate(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_exit_of_rays_handler_is_answered_as_before() -> None:
    with pytest.raises(Terminated), prefect_termination():
        raise SystemExit(signal.SIGTERM)


@pytest.mark.parametrize("code", [0, 1, "broken"])
def test_other_exits_stay_exits(code: object) -> None:
    with pytest.raises(SystemExit), prefect_termination():
        raise SystemExit(code)


@pytest.mark.ray
def test_ray_does_not_keep_the_signal() -> None:
    with (
        pytest.raises(Terminated),
        stage_executor(ExecutorConfig(kind="ray", workers="1:1")),
    ):
        signal.raise_signal(signal.SIGTERM)
