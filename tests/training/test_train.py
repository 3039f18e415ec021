from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ExecutionError, RunError
from shardlens.pipeline.executors.base import ExecutorConfig, Progress
from shardlens.pipeline.networks.resolve import NetworkConfig, load_network, resolve
from shardlens.pipeline.networks.weights import read_checkpoint
from shardlens.pipeline.train import TrainConfig, train
from tests.conftest import Bucket, free_ports
from tests.training.conftest import FAILING, IMAGES, SEMANTIC

Make = Callable[..., TrainConfig]


@pytest.mark.parametrize("place", ["checkpoints/r", "checkpoints/r/model.safetensors"])
def test_a_checkpoint_says_all_that_prediction_needs(config: Make, warehouse: str, place: str) -> None:
    report = train(config())
    network = resolve(NetworkConfig(weights=f"{warehouse}/{place}"))
    assert (network.model, network.sha256) == ("fcos_small", report.sha256)
    assert network.labels == ("__background__", "disc", "square", "triangle")
    (found,) = load_network(network)([torch.rand(3, 64, 64)])
    assert set(found) == {"boxes", "labels", "scores"}


def test_the_report_and_train_json_agree(config: Make, warehouse: str) -> None:
    report = train(config(epochs=2, batch_size=4))
    document = json.loads(Path(f"{warehouse}/checkpoints/r/train.json").read_text())
    assert (report.epochs, report.steps, report.images) == (2, 8, IMAGES)
    assert report.checkpoint == f"{warehouse}/checkpoints/r"
    assert document["checkpoint"]["sha256"] == report.sha256
    assert [losses["epoch"] for losses in document["losses"]] == [1, 2]
    assert document["losses"][-1] == {"epoch": 2, **report.losses}
    assert report.losses["loss"] == pytest.approx(sum(report.losses.values()) / 2)


def test_a_complete_run_is_reported_not_repeated(config: Make, drawn: Path) -> None:
    first = train(config(**SEMANTIC))
    heard: list[Progress] = []
    assert train(config(**SEMANTIC), heard.append) == first
    assert not [progress for progress in heard if progress.stage != "prepare"]


def test_what_is_done_before_the_first_step_is_reported_and_where_a_run_resumes(config: Make) -> None:
    asked = config(**SEMANTIC, epochs=2, batch_size=4)
    heard: list[Progress] = []

    def stop(progress: Progress) -> None:
        heard.append(progress)
        if progress.stage == "train" and progress.done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(asked, stop)
    assert [p.detail.partition(" ")[0] for p in heard if p.stage == "prepare"] == ["reading", "building", "trying", ""]
    assert [p.done for p in heard if p.milestone and p.stage == "train"] == [4]
    notes: list[str] = []
    train(asked, on_note=notes.append)
    assert notes[-1] == "run r resumes from step 4 of 8"


def test_the_report_of_an_earlier_version_is_read(config: Make, warehouse: str) -> None:
    """0.1.0 called the field `initialised`, and had neither all of today's fields nor only those."""
    first = train(config(**SEMANTIC))
    place = Path(f"{warehouse}/checkpoints/r/train.json")
    document = json.loads(place.read_text())
    document["report"] = {**document["report"], "initialised": "12 tensors fit", "gone_since": 1}
    del document["report"]["initialized"], document["report"]["notes"]
    place.write_text(json.dumps(document))
    assert train(config(**SEMANTIC)) == replace(first, initialized="12 tensors fit", notes=[])


@pytest.mark.parametrize("lost", ["model.safetensors", "train.json"])
def test_a_run_that_is_not_complete_is_trained_again(config: Make, warehouse: str, lost: str) -> None:
    first = train(config(**SEMANTIC))
    storage.delete(f"{warehouse}/checkpoints/r/{lost}")
    assert train(config(**SEMANTIC)).sha256 == first.sha256
    assert storage.exists(f"{warehouse}/checkpoints/r/{lost}")


def test_an_interrupted_run_is_trained_again_by_the_same_command(config: Make, warehouse: str) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.stage == "train":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config(**SEMANTIC), interrupt)
    assert storage.children(f"{warehouse}/checkpoints/r") == ["owner", "run.json"]
    assert train(config(**SEMANTIC)).steps == 2


def test_unreadable_images_are_counted_and_named(config: Make, warehouse: str, folder: Path) -> None:
    (folder / "000004.png").write_bytes(b"not an image")
    report = train(config(**SEMANTIC, dataset="fragile", max_unreadable=0.2))
    document = json.loads(Path(f"{warehouse}/checkpoints/r/train.json").read_text())
    assert report.left_out == {"unreadable images": 1}
    assert document["unreadable"][0].startswith("image 4 (decode): ")


def test_a_name_in_use_is_an_error_before_anything_is_trained(config: Make) -> None:
    train(config(**SEMANTIC))
    with pytest.raises(RunError, match="'r' exists with other settings"):
        train(config(**FAILING, option=("nan_at=1",)))


def test_options_stay_what_they_were(config: Make, warehouse: str) -> None:
    train(config())
    checkpoint = read_checkpoint(storage.read(f"{warehouse}/checkpoints/r/model.safetensors"))
    assert checkpoint is not None
    assert checkpoint.options == {"width": 8, "min_size": 64}


def test_images_are_predicted_at_the_size_that_was_learned_from(config: Make) -> None:
    report = train(config(**SEMANTIC, image_size=(24, 40)))
    network = resolve(NetworkConfig(model=SEMANTIC["model"], weights=report.checkpoint))
    assert network.input_rule(load_network(network)).shape(64, 64) == (24, 40)
    assert network.identity()["image_size"] == [24, 40]
    plain = resolve(NetworkConfig(model=SEMANTIC["model"], weights=train(config(**SEMANTIC, run="plain")).checkpoint))
    assert plain.input_rule(load_network(plain)).shape(64, 64) == (64, 64)
    assert "image_size" not in plain.identity()


@pytest.mark.s3
def test_a_warehouse_in_a_bucket_takes_a_checkpoint(config: Make, drawn: Path, s3: Bucket) -> None:
    for entry in storage.walk(str(drawn / "warehouse")):
        storage.publish(f"{s3.uri}/{entry.name}", storage.read(entry.uri))
    report = train(config(**SEMANTIC, warehouse=s3.uri))
    assert report.checkpoint == f"{s3.uri}/checkpoints/r"
    assert resolve(NetworkConfig(model=SEMANTIC["model"], weights=report.checkpoint)).sha256 == report.sha256
    assert train(config(**SEMANTIC, warehouse=s3.uri)) == report


@pytest.mark.ray
def test_a_cluster_that_is_not_there_is_reported_at_once_and_the_run_leaves_nothing(
    config: Make, warehouse: str
) -> None:
    (port,) = free_ports(1)
    nowhere = config(**SEMANTIC, executor=ExecutorConfig(kind="ray", address=f"127.0.0.1:{port}"))
    before = {entry.uri for entry in storage.walk(warehouse)}
    begun = time.monotonic()
    with pytest.raises(ExecutionError, match=rf"no Ray cluster can be joined at '127.0.0.1:{port}'"):
        train(nowhere)
    assert time.monotonic() - begun < 30
    assert {entry.uri for entry in storage.walk(warehouse)} == before
