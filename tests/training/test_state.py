from __future__ import annotations

import contextlib
import functools
import itertools
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shardlens.pipeline import storage
from shardlens.pipeline.errors import AccessDeniedError, RunError, StorageError, TrainingError
from shardlens.pipeline.executors.base import Progress
from shardlens.pipeline.networks.resolve import NetworkConfig, resolve
from shardlens.pipeline.networks.weights import Checkpoint
from shardlens.pipeline.train import TrainReport, train
from shardlens.pipeline.training import state
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.job import TrainJob
from shardlens.pipeline.training.loop import LocalWorker, fit
from shardlens.pipeline.training.prepare import prepare
from shardlens.pipeline.training.state import Snapshot, TrainingState
from shardlens.pipeline.training.transfer import read_init
from shardlens.pipeline.warehouse import tables
from tests.training.conftest import FAILING, SEMANTIC

Make = Callable[..., TrainConfig]
TIMES = ["seconds", "wait_seconds", "images_per_second", "run"]


def snapshot(step: int, **reached: Any) -> Snapshot:
    weights = {"w": torch.full((2,), float(step))}
    table = tables.from_rows([], tables.TRAINING)
    return Snapshot(TrainingState(step=step, **reached), Checkpoint("m", {}, ("a",)), weights, {"lr": [0.1]}, table)


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("step-*"))


def rows(job: TrainJob) -> list[dict[str, Any]]:
    """The run's table, but for the times."""
    return tables.from_bytes(storage.read(f"{job.folder}/training.parquet")).drop_columns(TIMES).to_pylist()


def interrupted(job: TrainJob, at: int) -> None:
    """Train until step `at` is told of, and stop there."""

    def stop(progress: Progress) -> None:
        if progress.stage == "train" and progress.done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(job, LocalWorker(listener=stop))


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    written = snapshot(3, epoch=1, step_of_epoch=1, validations=({"AP": 0.1},), best_step=2, unreadable={"7": "gone"})
    state.write(str(tmp_path), written)
    saved = state.newest(str(tmp_path))
    assert saved is not None
    assert (saved.reached, saved.state) == (written.reached, {"lr": [0.1]})


def test_strides_stay_what_they_were() -> None:
    tensor = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    copied = state.frozen({"a": [tensor]})["a"][0]
    assert copied.stride() == tensor.stride()
    assert copied.data_ptr() != tensor.data_ptr()


def test_the_manifest_has_the_keys_of_earlier_versions(tmp_path: Path) -> None:
    state.write(str(tmp_path), snapshot(3))
    manifest = json.loads((tmp_path / "step-000003" / "checkpoint.json").read_text())
    assert manifest.keys() == {"format", "standing", "files"}
    assert manifest["standing"]["step"] == 3


@pytest.mark.parametrize("name", ["checkpoint.json", "model.safetensors", "state.pt", "steps.parquet"])
@pytest.mark.parametrize("damage", ["lost", "cut", "emptied"])
def test_a_checkpoint_that_is_not_complete_is_passed_over(tmp_path: Path, name: str, damage: str) -> None:
    for step in (1, 2):
        state.write(str(tmp_path), snapshot(step))
    part = tmp_path / "step-000002" / name
    part.unlink() if damage == "lost" else part.write_bytes(part.read_bytes()[:-2] if damage == "cut" else b"{}")
    saved = state.newest(str(tmp_path))
    assert saved is not None
    assert saved.reached.step == 1


def test_a_checkpoint_of_another_format_is_not_passed_over(tmp_path: Path) -> None:
    state.write(str(tmp_path), snapshot(1))
    manifest = tmp_path / "step-000001/checkpoint.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(StorageError, match=r"step-000001 is a checkpoint of format 2, expected 1.*another --run"):
        state.newest(str(tmp_path))


def test_a_checkpoint_that_may_not_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state.write(str(tmp_path), snapshot(1))
    monkeypatch.setattr(storage, "read", denied)
    with pytest.raises(AccessDeniedError):
        state.newest(str(tmp_path))


def denied(uri: str) -> bytes:
    raise AccessDeniedError(uri)


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    writer = state.Writer(str(tmp_path), 2, "this")
    writer.take_up()
    for step in (1, 2, 3, 4, 5):
        writer.put(snapshot(step, best_step=2 if step >= 2 else None))
    writer.close()
    assert steps(tmp_path) == ["step-000002", "step-000004", "step-000005"]


def test_orphans_and_what_lies_ahead_are_swept(tmp_path: Path) -> None:
    for step in (1, 2, 9):
        state.write(str(tmp_path), snapshot(step))
    (tmp_path / "step-000002" / "checkpoint.json").unlink()
    state.sweep(str(tmp_path), keep=5, reached=TrainingState(step=3))
    assert steps(tmp_path) == ["step-000001"]


def test_a_checkpoint_that_could_not_be_written_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "step-000001").write_text("no folder")
    writer = state.Writer(str(tmp_path), 1, "this")
    writer.take_up()
    writer.put(snapshot(1))
    with pytest.raises(StorageError, match="step-000001"):
        writer.put(snapshot(2))
    writer.close()


def test_of_two_commands_on_a_run_the_first_gives_way(tmp_path: Path) -> None:
    first, second = (state.Writer(str(tmp_path), 1, command) for command in ("first", "second"))
    first.take_up()
    first.put(snapshot(7))
    first.wait()
    second.take_up()
    second.put(snapshot(3))
    second.wait()
    with pytest.raises(RunError, match="another command has taken up the training run"):
        first.put(snapshot(9))
    second.put(snapshot(4))
    second.wait()
    assert steps(tmp_path) == ["step-000004"]


def test_a_folder_that_was_removed_is_not_made_anew(tmp_path: Path) -> None:
    writer = state.Writer(str(tmp_path / "r"), 1, "this")
    writer.take_up()
    shutil.rmtree(tmp_path / "r")
    with pytest.raises(RunError, match="r was removed while this run trained"):
        writer.put(snapshot(1))
    assert not (tmp_path / "r").exists()


DETECTOR = {"epochs": 3, "batch_size": 4, "accumulate": 2, "ema": 0.9}
SGD = {**SEMANTIC, "epochs": 3, "batch_size": 4, "optimizer": "sgd", "precision": "fp16"}


@pytest.mark.parametrize("settings", [DETECTOR, SGD])
@pytest.mark.parametrize("every", [0, 1, 4])
def test_a_run_that_was_stopped_goes_on_to_the_bit(config: Make, settings: dict[str, Any], every: int) -> None:
    whole = prepare(config(run="whole", **settings))
    expected = fit(whole, LocalWorker())
    job = prepare(config(run="cut", checkpoint_every=every, **settings))
    at = expected.steps - 1
    interrupted(job, at)
    found = fit(job, LocalWorker())
    assert found.resumed_from > 0
    assert found.sha256 == expected.sha256
    assert rows(job) == rows(whole)


class Killed(BaseException):
    """The end of a process, as far as one process can have it."""


def test_a_run_that_ends_at_any_write_goes_on_to_the_bit(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**SEMANTIC, "epochs": 3, "batch_size": 16, "val_split": "train", "ema": 0.5, "keep": 1}
    verbs = {name: getattr(storage, name) for name in ("create", "publish", "delete", "delete_folder")}

    def train_until(write: int, run: str) -> Iterator[TrainReport]:
        done = itertools.count()

        def counted(verb: Callable[..., object], *given: object) -> object:
            if next(done) >= write:
                raise Killed
            return verb(*given)

        with monkeypatch.context() as patched, contextlib.suppress(Killed):
            for name, verb in verbs.items():
                patched.setattr(storage, name, functools.partial(counted, verb))
            yield train(config(run=run, **settings))

    (whole,) = train_until(1000, "whole")
    for write in random.sample(range(1, 24), 4):
        assert list(train_until(write, f"cut-{write}")) == []
        again = train(config(run=f"cut-{write}", **settings))
        assert (again.sha256, again.best) == (whole.sha256, whole.best), write
        assert storage.children(again.checkpoint) == storage.children(whole.checkpoint), write
        assert rows(prepare(config(run=again.run, **settings))) == rows(prepare(config(run="whole", **settings))), write


def test_a_run_under_way_predicts_with_its_last_checkpoint(config: Make, warehouse: str) -> None:
    job = prepare(config(epochs=3, batch_size=8))
    interrupted(job, 5)
    places = [job.folder, f"{job.folder}/step-000004", f"{job.folder}/step-000004/model.safetensors"]
    found = {resolve(NetworkConfig(weights=place)).sha256 for place in places}
    assert {state.digest(read_init(place)) for place in places} == found
    assert len(found) == 1


def test_a_failed_run_names_the_last_good_checkpoint(config: Make) -> None:
    settings = config(**FAILING, option=("nan_at=3",), batch_size=8, epochs=2)
    with pytest.raises(TrainingError, match=r"images \d+.*the last good checkpoint is .*/checkpoints/r/step-000002$"):
        train(settings)
    with pytest.raises(TrainingError, match="no checkpoint had been written yet"):
        train(replace(settings, run="s", option=("nan_at=1",)))


def test_what_could_not_be_read_before_is_still_known(config: Make, folder: Path) -> None:
    (folder / "000004.png").write_bytes(b"not an image")
    job = prepare(config(**SEMANTIC, dataset="fragile", max_unreadable=0.2, batch_size=2, checkpoint_every=1))
    interrupted(job, 3)
    assert [text[:7] for text in fit(job, LocalWorker()).unreadable] == ["image 4"]
