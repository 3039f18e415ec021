from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.errors import RunError
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.prepare import prepare
from shardlens.pipeline.training.records import (
    Step,
    Trained,
    claim,
    finish,
    losses_by_epoch,
    publish,
    release,
    steps_table,
)
from shardlens.pipeline.training.state import Writer
from shardlens.pipeline.warehouse import tables

Make = Callable[..., TrainConfig]


def step(number: int, images: int, **parts: float) -> Step:
    return Step(1, number, images, parts, 0.1, 2.0, 0.5, 0.25)


STEPS = [step(1, 3, box=1.0, label=2.0), step(2, 1, box=5.0, label=0.0)]


def test_the_loss_of_an_epoch_is_the_mean_over_its_images(config: Make) -> None:
    last = replace(step(3, 2, box=4.0, label=1.0), epoch=2)
    assert losses_by_epoch(steps_table(prepare(config()), [*STEPS, last])) == [
        {"epoch": 1, "loss": 3.5, "box": 2.0, "label": 1.5},
        {"epoch": 2, "loss": 5.0, "box": 4.0, "label": 1.0},
    ]


def test_every_step_is_a_row(config: Make) -> None:
    job = prepare(config())
    publish(job, b"", steps_table(job, STEPS))
    table = tables.from_bytes(storage.read(f"{job.folder}/training.parquet"))
    first = table.to_pylist()[0]
    assert (first["run"], first["dataset"], first["step"], first["loss"]) == ("r", "shapes", 1, 3.0)
    assert dict(first["parts"]) == {"box": 1.0, "label": 2.0}
    assert table.num_rows == 2


def test_a_name_in_use_with_other_settings_shows_them(config: Make) -> None:
    claim(prepare(config()))
    with pytest.raises(
        RunError, match=r"'r' exists with other settings:\n  epochs: 1 there, 5 here\n.*another --run name"
    ):
        claim(prepare(config(epochs=5)))


def test_a_run_is_complete_once_it_is_finished(config: Make) -> None:
    job = prepare(config())
    assert [(claimed.fresh, claimed.done) for claimed in (claim(job), claim(job))] == [(True, None), (False, None)]
    finish(job, {"run": "r"}, Trained("ab", 2, ({"epoch": 1, "loss": 3.0},), 2, 1.0, 0.5, ()))
    found = claim(job).done
    assert found is not None
    assert (found["report"], found["losses"]) == ({"run": "r"}, [{"epoch": 1, "loss": 3.0}])
    assert found["settings"]["options"] == {"width": 8, "min_size": 64}


def test_a_name_is_given_back_by_the_command_that_trains_under_it(config: Make) -> None:
    first, second = prepare(config()), prepare(config())
    claim(first)
    Writer(second.folder, 1, second.command).take_up()
    release(first)
    assert not claim(second).fresh
    release(second)
    assert storage.children(first.folder) == []
    assert claim(first).fresh
