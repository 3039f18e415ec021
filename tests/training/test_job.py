from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from shardlens import models
from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError, DatasetError, ModelError, ShardlensError, WeightsError
from shardlens.pipeline.executors.base import ExecutorConfig
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.precision import resolve_precision
from shardlens.pipeline.training.config import TrainConfig
from shardlens.pipeline.training.prepare import choose_split, name_labels, prepare
from shardlens.pipeline.training.records import claim
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.training.conftest import IMAGES, SEMANTIC

Make = Callable[..., TrainConfig]


def change(warehouse: str, part: str, edit: Callable[[dict[str, Any]], dict[str, Any]], name: str = "shapes") -> None:
    """Edit every row of a table of a dataset."""
    uri = storage.join(Dataset.open(Warehouse(warehouse), name).root, f"{part}.parquet")
    table = tables.from_bytes(storage.read(uri))
    storage.publish(uri, tables.to_bytes(tables.from_rows([edit(row) for row in table.to_pylist()], table.schema)))


def test_a_job_names_what_its_workers_must_agree_on(config: Make) -> None:
    job = prepare(config())
    assert (job.images, job.split, job.run) == (IMAGES, "train", "r")
    assert job.labels == ("__background__", "disc", "square", "triangle")
    assert job.label_of == {1: 1, 2: 2, 3: 3}
    assert job.options == {"width": 8, "min_size": 64}
    assert job.folder.endswith("/checkpoints/r")


def test_a_run_is_named_by_its_settings(config: Make) -> None:
    first, same, other = (prepare(config(run=None, seed=seed)).run for seed in (0, 0, 1))
    assert first == same != other
    assert first.startswith("fcos_small-")
    assert prepare(config(run=None, **SEMANTIC)).run.startswith("tests.training.plain_models-SEGMENTER-")


CHANGES: list[dict[str, Any]] = [
    {"learning_rate": 0.1},
    {"option": ("width=4",)},
    {"executor": ExecutorConfig(kind="ray", workers="2")},
    {"executor": ExecutorConfig(gpus_per_worker=1)},
    {"split": "train", "epochs": 2},
]


@pytest.mark.parametrize("changed", CHANGES)
def test_what_changes_a_weight_changes_the_fingerprint(config: Make, changed: dict[str, Any]) -> None:
    assert prepare(config()).fingerprint != prepare(config(**changed)).fingerprint


def test_what_changes_no_weight_leaves_the_fingerprint(config: Make) -> None:
    other = prepare(
        config(run="other", cache_mb=1, max_unreadable=0.5, executor=ExecutorConfig(kind="ray", cpus_per_worker=0.5))
    )
    assert prepare(config()).fingerprint == other.fingerprint


def split_table(*splits: str | None) -> pa.Table:
    return pa.table({"split": pa.array(splits, pa.string())})


@pytest.mark.parametrize(
    ("asked", "there", "chosen"),
    [(None, ("val", "train"), "train"), (None, (None,), None), ("val", ("val", None), "val")],
)
def test_the_split_is_train_unless_another_is_asked_for(
    config: Make, asked: str | None, there: tuple[str | None, ...], chosen: str | None
) -> None:
    assert choose_split(config(split=asked), split_table(*there)) == chosen


@pytest.mark.parametrize(
    ("asked", "there", "message"),
    [
        ("dev", ("val", "train"), r"no split 'dev': it has train, val"),
        (None, ("val",), "'train'"),
        ("dev", (None,), "leave --split out"),
    ],
)
def test_an_unknown_split_is_an_error(
    config: Make, asked: str | None, there: tuple[str | None, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_split(config(split=asked), split_table(*there))


PREDICTING = {"model": "tests.training.plain_models:PREDICTING", "option": ()}
ERRORS: list[tuple[dict[str, Any], type[ShardlensError], str]] = [
    ({"dataset": "shapse"}, DatasetError, "no dataset 'shapse'.*shapes"),
    ({"model": "fcos_smal"}, ModelError, "nearest: fcos_small"),
    (PREDICTING, ConfigError, "PREDICTING cannot be trained here.*fcos_small.*unet"),
    ({"option": ("widht=8",)}, ModelError, "no option 'widht'; it takes width"),
    ({"option": ("width",)}, ConfigError, "expected NAME=VALUE"),
    ({"image_size": (64, 64)}, ConfigError, "image_size is for semantic models; fcos_small.*min_size"),
    ({"dataset": "bare"}, DatasetError, r"at least one box.*bare \(2 images\), which hold no annotations at all"),
    ({"executor": ExecutorConfig(kind="ray", workers="17")}, ConfigError, "16 images for 17 workers"),
    ({"init": "/not/there.pth"}, WeightsError, "no weights to start from at /not/there.pth"),
    ({"copy_paste": 0.5}, ConfigError, "copy_paste is 0.5: expected 0, for detection models"),
    ({"run": "a/b"}, ConfigError, "run 'a/b' cannot be used as a name"),
]


@pytest.mark.parametrize(("given", "kind", "message"), ERRORS)
def test_what_cannot_work_is_an_error_before_the_first_step(
    config: Make, given: dict[str, Any], kind: type[ShardlensError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        prepare(config(**given))


RCNN = {"model": "rcnn", "option": ("backbone=resnet18",)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"executor": ExecutorConfig(kind="ray", workers="2")}, "by one worker; 2 were asked for: leave --workers out"),
        ({"patience": 3, "val_split": "train"}, "patience is 3, but rcnn is fitted in one pass.*leave --patience out"),
        ({"ema": 0.9}, "ema is 0.9, but rcnn is fitted in one pass.*leave --ema out"),
        ({"transfer": "fine-tune", "init": "/a.pth"}, "transfer is 'fine-tune', but rcnn.*leave --transfer out"),
    ],
)
def test_a_model_that_is_fitted_at_once_refuses_what_it_would_leave_alone(
    config: Make, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(config(**RCNN, **given))


def test_what_is_validated_on_is_reported_as_it_is(config: Make) -> None:
    (only,) = prepare(config(**RCNN, val_split="train")).notes
    assert only == "rcnn is fitted in one pass over the images, nothing is validated: its weights are kept"
    assert "split 'train' is both trained on and validated on" in prepare(config(val_split="train")).notes[1]
    assert not any("validated on:" in note for note in prepare(config()).notes)


def test_boxes_alone_teach_no_segmentation(config: Make, warehouse: str) -> None:
    change(warehouse, "annotations", lambda row: {**row, "segmentation": None})
    with pytest.raises(
        DatasetError, match=r"needs at least one mask of a category in split 'train'.*\d+ without a mask"
    ):
        prepare(config(**SEMANTIC))


def test_masks_of_another_size_are_reported_before_they_are_drawn(config: Make, warehouse: str) -> None:
    def narrowed(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "segmentation": {**row["segmentation"], "size": [64, 32]}} if row["image_id"] == 2 else row

    change(warehouse, "annotations", narrowed)
    message = (
        r"\d masks are of another size.*annotation \d+ in 000002.png, which is 64 x 32 .* where the image is 64 x 64"
    )
    with pytest.raises(DatasetError, match=message):
        prepare(config(**SEMANTIC))
    prepare(config())  # boxes alone are enough


def test_a_version_that_is_not_the_latest_can_be_named(config: Make, warehouse: str, drawn: Path) -> None:
    before = prepare(config())
    places = {"images": str(drawn / "pair/train/images"), "annotations": str(drawn / "pair/instances_train.json")}
    ingest(IngestConfig("shapes", **places, split="train", warehouse=warehouse), LocalExecutor())
    assert prepare(config()).fingerprint != before.fingerprint
    again = prepare(config(dataset=f"shapes@{before.dataset_version}"))
    assert (again.fingerprint, again.config.dataset) == (before.fingerprint, "shapes")


def test_a_precision_that_is_left_open_is_settled(config: Make) -> None:
    expected = resolve_precision("auto", "cpu")
    job = prepare(config(precision="auto"))
    assert job.settings["precision"] == expected
    assert job.fingerprint == prepare(config(precision=expected)).fingerprint


def test_auto_goes_on_as_the_training_was_begun(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardlens.pipeline.networks.precision.bf16_speedup", lambda: 1.9)
    begun = prepare(config(precision="auto", run=None))
    assert claim(begun).fresh
    monkeypatch.setattr("shardlens.pipeline.networks.precision.bf16_speedup", lambda: 0.9)
    again = prepare(config(precision="auto", run=None))
    assert (again.run, again.precision) == (begun.run, "bf16")
    assert not claim(again).fresh
    assert prepare(config(precision="bf16", run=None)).run != begun.run


def test_void_alone_teaches_nothing(config: Make, warehouse: str) -> None:
    change(warehouse, "annotations", lambda row: {**row, "category_id": None, "category": None})
    with pytest.raises(DatasetError, match="nothing to train on"):
        prepare(config(**SEMANTIC))


def test_images_without_a_readable_header_are_left_out(config: Make, warehouse: str) -> None:
    change(warehouse, "images", lambda row: row | ({"width": None, "height": None} if row["image_id"] == 1 else {}))
    with pytest.raises(DatasetError, match=r"1 of the 16 images to train on.*0.0% of --max-unreadable.*image 1 "):
        prepare(config(max_unreadable=0.0))
    job = prepare(config())  # below 100 images one may be
    assert (job.images, job.left_out) == (IMAGES - 1, {"images without a readable header": 1})
    note = r"1 of the 16 images to train on could not be read when they were ingested \(000001.png\): they are left out"
    assert any(re.match(note, found) for found in job.notes)
    with pytest.raises(DatasetError, match=f"(?s)refused by --strict.*{note}"):
        prepare(config(max_unreadable=0.1, strict=True))


def test_unreadable_images_to_validate_on_are_reported_before_the_first_step(config: Make, warehouse: str) -> None:
    def unread(row: dict[str, Any]) -> dict[str, Any]:
        return row | {
            "split": "train" if row["image_id"] > 4 else "val",
            **({"width": None, "height": None} if row["image_id"] == 1 else {}),
        }

    change(warehouse, "images", unread)
    message = r"1 of the 4 images to validate on cannot be read, more than the 0.0% of --max-unreadable.*000001.png"
    with pytest.raises(DatasetError, match=message):
        prepare(config(max_unreadable=0.0))
    prepare(config(max_unreadable=0.0, validate_every=0))
    notes = prepare(config()).notes
    assert any("images to validate on could not be read" in note and "count as missed" in note for note in notes)


def test_a_semantic_map_has_room_for_254_categories() -> None:
    spec = models.find("unet")
    categories = tables.from_rows([{"category_id": i, "name": f"c{i}"} for i in range(255)], tables.CATEGORIES)
    with pytest.raises(ConfigError, match="255 categories: a semantic model tells at most 254 apart"):
        name_labels(spec, categories)
    with pytest.raises(ConfigError, match="255 categories: a panoptic model tells at most 254 apart"):
        name_labels(models.find("panoptic_fpn"), categories)
    labels, label_of = name_labels(replace(spec, background=False), categories)
    assert (len(labels), label_of[0], label_of[254]) == (255, 0, 254)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "epochs is 0: expected 1 or more"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0: expected a number above 0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0: expected 0 or more"),
        (
            {"seed": 99999999999999999999},
            "seed is 99999999999999999999: expected a whole number from 0 to 922337203685",
        ),
        ({"seed": -1}, "seed is -1: expected a whole number from 0 to"),
        ({"warmup": 1.5}, "warmup is 1.5: expected a share"),
        ({"optimizer": "adam"}, "optimizer is 'adam': expected one of adamw, sgd"),
        ({"precision": "int8"}, "precision is 'int8': expected one of fp32"),
        ({"image_size": (0, 4)}, "image_size is .*: expected a height and a width"),
    ],
)
def test_settings_are_checked(config: Make, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**given)


@pytest.mark.parametrize("asked", [{"border_weight": 10.0}, {"dice_weight": 2.0}, {"class_weight": ("disc=2",)}])
def test_losses_of_semantic_models_are_refused_beside_others(config: Make, asked: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(asked))} is for semantic models; .* has losses of its own"):
        prepare(config(**asked))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"border_weight": 10.0, "cross_entropy_weight": 0.0},
            "border_weight is 10.0: expected 0, without cross entropy",
        ),
        ({"class_weight": ("disc=2",), "cross_entropy_weight": 0.0}, "expected none, with the Dice loss alone"),
    ],
)
def test_weights_of_a_loss_that_is_left_out_are_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig("shapes", model="unet", **asked)


def test_how_odd_images_are_decoded_counts_where_it_is_not_the_default(config: Make) -> None:
    plain = prepare(config()).settings
    assert not {"value_range", "accept_missing_end"} & set(plain)
    asked = prepare(config(value_range="0:4095", accept_missing_end=True))
    assert asked.settings == {**plain, "value_range": "0:4095", "accept_missing_end": True}
    assert asked.config.decode_policy.values == (0, 4095)
    with pytest.raises(ConfigError, match="value range '9:1'"):
        config(value_range="9:1")
