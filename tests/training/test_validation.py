from __future__ import annotations

import contextlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shardlens import models
from shardlens.pipeline import storage
from shardlens.pipeline.errors import DatasetError, TrainingError
from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.base import Progress
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.networks.weights import Checkpoint, save
from shardlens.pipeline.predict import PredictConfig, predict
from shardlens.pipeline.train import train
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.job import TrainJob
from shardlens.pipeline.training.prepare import prepare
from shardlens.pipeline.training.validation import Validator, evaluating
from tests.training.conftest import IMAGES, SEMANTIC
from tests.training.test_job import change
from tests.training.validating import validate

Make = Callable[..., TrainConfig]
ROOT = Path(__file__).resolve().parents[2]
MODELS = {kind: f"tests.training.color_models:{kind.upper()}" for kind in ("boxes", "instances", "pixels")}


@pytest.fixture
def job(config: Make) -> Callable[..., TrainJob]:
    """A job that validates on the images drawn, batches of three; name the network and what else matters."""

    def made(kind: str, **given: Any) -> TrainJob:
        settings = {"model": MODELS[kind], "option": (), "val_split": "train", "batch_size": 3}
        return prepare(config(**{**settings, **given}))

    return made


def network_of(job: TrainJob) -> nn.Module:
    return models.build(job.config.model, len(job.labels), job.options)


def validator_of(job: TrainJob, progress: Callable[[Progress], None] = lambda progress: None) -> Validator:
    return Validator(job, job.spec.input_rule(network_of(job)), torch.device("cpu"), "fp32", progress)


@pytest.mark.parametrize(("kind", "own"), [("boxes", "bbox"), ("instances", "segm"), ("pixels", "semantic")])
def test_the_figures_are_those_of_predict_and_evaluate(
    job: Callable[..., TrainJob], warehouse: str, kind: str, own: str
) -> None:
    asked = job(kind)
    weights = save(network_of(asked), Checkpoint(asked.config.model, asked.options, asked.labels))
    storage.publish(f"{warehouse}/made/model.safetensors", weights)
    network = NetworkConfig(model=MODELS[kind], weights=f"{warehouse}/made")
    run = predict(PredictConfig("shapes", network=network, precision="fp32", warehouse=warehouse), LocalExecutor())
    summary = evaluate(EvaluateConfig(run.run, warehouse=warehouse), LocalExecutor()).summary()
    expected = {metric if task == own else f"{task}/{metric}": v for task, metric, v in summary if task != "images"}
    found, _ = validate(asked)
    assert found == {name: value for name, value in expected.items() if value is not None}
    assert 0.1 < found["Dice" if kind == "pixels" else "AP50"] < 0.999


def test_one_two_and_three_workers_give_the_same_to_the_bit(job: Callable[..., TrainJob], tmp_path: Path) -> None:
    jobs = [job("instances"), job("pixels")]
    (tmp_path / "jobs").write_bytes(pickle.dumps(jobs))
    command = [sys.executable, "-m", "tests.training.validating", str(tmp_path / "jobs")]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for rank in range(3)
    ]
    said = [rank.communicate(timeout=240)[0].splitlines() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0, 0]
    alone = [json.loads(json.dumps(validate(each))) for each in jobs]
    assert [[json.loads(line) for line in lines] for lines in said] == [alone * 2, alone * 2, alone]


def test_every_image_is_scored_once(job: Callable[..., TrainJob]) -> None:
    validator = validator_of(job("pixels"))
    ids = np.concatenate([scope.image_ids for scope in validator.truth.scopes])
    assert sorted(ids.tolist()) == list(range(1, IMAGES + 1))
    assert len(validator.shards) == 6  # batches of three
    validator(network_of(validator.job))
    (row,) = [row for row in validator.rows if row["metric"] == "pixel_accuracy"]
    assert 0.99 * IMAGES * 64 * 64 < row["support"] <= IMAGES * 64 * 64  # where two shapes overlap, pixels are void


def test_network_and_random_numbers_are_given_back_as_they_were(job: Callable[..., TrainJob]) -> None:
    validator = validator_of(job("boxes"))
    network = network_of(validator.job).train()
    norm = network.get_submodule("body.1").eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = validator(network)
    assert torch.equal(torch.rand(1), expected)
    assert [m.training for m in network.modules() if m is not norm] == [True, True, True, True]
    assert not norm.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert validator(network) == first


def test_a_network_that_fails_is_given_back_too() -> None:
    network = nn.Dropout()
    with contextlib.suppress(KeyError), evaluating(network, torch.device("cpu")):
        assert not network.training
        raise KeyError
    assert network.training
    assert torch.is_grad_enabled()


def test_a_network_can_learn_after_it_was_validated(job: Callable[..., TrainJob]) -> None:
    asked = prepare(replace(job("boxes").config, model="fcos_small", option=("width=8", "min_size=64")))
    network = network_of(asked)
    validator_of(asked)(network)
    target = {"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    losses = network([torch.rand(3, 64, 64)], [target])
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_predictions_that_are_no_numbers_stop_the_run(job: Callable[..., TrainJob]) -> None:
    validator = validator_of(job("boxes", option=("nan_on_red=0.5",)))
    with pytest.raises(TrainingError, match=r"predictions are no finite numbers.*images \d+, \d+.*--learning-rate"):
        validator(network_of(validator.job))


def test_unreadable_images_are_reported_or_count_as_missed(config: Make, warehouse: str, folder: Path) -> None:
    settings = {"model": MODELS["pixels"], "option": (), "dataset": "fragile"}
    asked = prepare(config(**settings))
    asked = replace(asked, val_split=None)  # all images, as there are no splits
    whole = validator_of(asked)(network_of(asked))
    (folder / "000004.png").write_bytes(b"not an image")
    validator_of(asked).decode()  # one may be, below 100 images
    assert validator_of(asked)(network_of(asked))["Dice"] < whole["Dice"]
    (folder / "000005.png").write_bytes(b"not an image")
    for check in (lambda: validator_of(asked)(network_of(asked)), lambda: validator_of(asked).decode()):
        with pytest.raises(
            DatasetError, match=r"2 of the 6 images to validate on.*image 5 \(decode\).*fix or remove them"
        ):
            check()
    tolerant = replace(asked, config=replace(asked.config, max_unreadable=0.4))
    validator_of(tolerant).decode()
    strict = replace(asked, config=replace(asked.config, max_unreadable=0.0))
    with pytest.raises(DatasetError, match=r"more than the 0\.0% of --max-unreadable"):
        validator_of(strict).decode()


def test_a_truncated_validation_image_stops_the_run_before_its_first_step(
    config: Make, warehouse: str, folder: Path
) -> None:
    def halved(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"split": "train" if row["image_id"] < 4 else "val"}

    change(warehouse, "images", halved, "fragile")
    for name in ("000005.png", "000006.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-200])
    heard: list[Progress] = []
    with pytest.raises(DatasetError, match=r"2 of the 3 images to validate on cannot be read.*--val-split"):
        train(config(**SEMANTIC, dataset="fragile"), heard.append)
    assert not [p for p in heard if p.stage == "train"]


def test_progress_counts_the_images(job: Callable[..., TrainJob]) -> None:
    heard: list[Progress] = []
    validator = validator_of(job("pixels"), heard.append)
    validator(network_of(validator.job))
    assert [p.done for p in heard] == [3, 6, 9, 12, 15, 16]
    assert {(p.stage, p.total, p.unit) for p in heard} == {("validate", IMAGES, "images")}
