"""A step whose batch does not fit the memory, beside other workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from pipeline.errors import ConfigError
from pipeline.training.config import TrainConfig
from pipeline.training.data import TrainingData
from pipeline.training.job import prepare
from pipeline.training.loop import LocalWorker
from pipeline.training.stepper import Stepper
from tests.training.conftest import FAILING

Make = Callable[..., TrainConfig]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A group of this process alone, that gradients are exchanged in as in a larger one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def test_a_worker_among_others_tries_alone_what_fits(config: Make, group: None) -> None:
    job = prepare(config(**FAILING, option=("room=3",)))
    stepper = Stepper(job, LocalWorker(world_size=2))
    stepper.begin(0)
    (share, *_) = TrainingData(job, stepper.rule).epoch(0, 0, 1)
    with pytest.raises(ConfigError, match=r"a batch of 8 images does not fit.*2 GiB\); one of 2 does"):
        stepper.step(share, 0, 0)
