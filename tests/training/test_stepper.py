"""A batch that does not fit the memory: before the first step, and in one, beside other workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.data import TrainingData
from shardlens.pipeline.training.loop import LocalWorker
from shardlens.pipeline.training.prepare import prepare
from shardlens.pipeline.training.stepper import Stepper
from shardlens.pipeline.training.trial import Trial, largest_sample
from tests.training.conftest import FAILING, SEMANTIC

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


@pytest.mark.parametrize(("room", "advice"), [(3, "one of 2 does"), (0, "nor does one image")])
def test_a_full_device_is_seen_before_the_first_step(config: Make, room: int, advice: str) -> None:
    job = prepare(config(**FAILING, option=(f"room={room}",)))
    stepper = Stepper(job, LocalWorker())
    sample = Trial(stepper.network, "detection", stepper.rule, stepper.device).sample(64, 96)
    with pytest.raises(ConfigError, match=rf"a batch of 8 images does not fit.*2 GiB\); {advice}"):
        stepper.check_memory(sample)


@pytest.mark.parametrize("settings", [{}, SEMANTIC], ids=["detection", "semantic"])
def test_what_fits_leaves_network_and_optimizer_as_they_were(config: Make, settings: dict[str, object]) -> None:
    job = prepare(config(**settings))
    stepper = Stepper(job, LocalWorker())
    before = {name: value.clone() for name, value in stepper.network.state_dict().items()}
    stepper.check_memory(Trial(stepper.network, job.spec.task, stepper.rule, stepper.device).sample(64, 96))
    assert all(torch.equal(value, before[name]) for name, value in stepper.network.state_dict().items())
    assert all(parameter.grad is None for parameter in stepper.network.parameters())
    assert not stepper.optimizer.state


@pytest.mark.parametrize(
    ("settings", "factor"),
    [({}, 1), ({"multi_scale": 0.5}, 1), ({**SEMANTIC, "multi_scale": 0.5}, 1.5)],
    ids=["detection", "a detector resizes by itself", "semantic"],
)
def test_the_largest_sample(config: Make, settings: dict[str, object], factor: float) -> None:
    job = prepare(config(**settings))
    stepper = Stepper(job, LocalWorker())
    images = TrainingData(job, stepper.rule).images
    found = largest_sample(job.config, Trial(stepper.network, job.spec.task, stepper.rule, stepper.device), images)
    height, width = max(((i.height or 0, i.width or 0) for i in images), key=lambda pair: pair[0] * pair[1])
    assert found.image.shape[1:] == (round(height * factor), round(width * factor))


def test_the_largest_sample_is_the_crop(config: Make) -> None:
    job = prepare(config(**SEMANTIC, crop=(48, 32)))
    stepper = Stepper(job, LocalWorker())
    trial = Trial(stepper.network, job.spec.task, stepper.rule, stepper.device)
    assert largest_sample(job.config, trial, TrainingData(job, stepper.rule).images).image.shape == (3, 48, 32)


def test_a_network_that_has_no_room_for_its_averages_is_explained(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(network: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB. More words")

    job = prepare(config())
    stepper = Stepper(job, LocalWorker())
    sample = Trial(stepper.network, job.spec.task, stepper.rule, stepper.device).sample(64, 96)
    monkeypatch.setattr("copy.deepcopy", refuse)
    with pytest.raises(ConfigError, match="nor does one image"):
        stepper.check_memory(sample)
