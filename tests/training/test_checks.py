"""What is looked at before the first step, through the command line: found, expected, where, what to do."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shardlens.pipeline import storage
from shardlens.pipeline.cli import main
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.checkpoints import CHECKPOINT
from tests.conftest import Bucket

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")  # it is, as by a user

Run = Callable[..., tuple[int, str]]
PIXELS = ("--model", "tests.training.color_models:PIXELS", "--batch-size", "8", "--epochs", "1")
BOXES = ("--model", "fcos_small", "--option", "width=8", "--option", "min_size=64", "--epochs", "1")


@pytest.fixture
def train(warehouse: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`shardlens train WORDS`: its exit status, and what it said on standard error."""

    names = itertools.count()

    def run(*words: str, place: str = warehouse) -> tuple[int, str]:
        name = f"r{next(names)}"
        monkeypatch.setattr(sys, "argv", ["shardlens", "train", *words, "--run", name, "--warehouse", place])
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        said = capsys.readouterr().err
        if status:  # before the first step
            assert not storage.exists(f"{place}/checkpoints/{name}/{CHECKPOINT}")
        return status, said

    return run


@pytest.fixture
def changed(drawn: Path, warehouse: str, tmp_path: Path) -> Callable[..., None]:
    """Ingest the drawn images as `other`, their COCO document changed by an edit."""

    def make(edit: Callable[[dict[str, Any]], None]) -> None:
        document = json.loads((drawn / "shapes/instances_train.json").read_text())
        if not (tmp_path / "images").exists():
            shutil.copytree(drawn / "shapes/train/images", tmp_path / "images")
        edit(document)
        (tmp_path / "train.json").write_text(json.dumps(document))
        places = {"images": str(tmp_path / "images"), "annotations": str(tmp_path / "train.json")}
        ingest(IngestConfig("other", **places, split="train", warehouse=warehouse), LocalExecutor())

    return make


ERRORS: list[tuple[tuple[str, ...], str]] = [
    (("bare", *BOXES), "nothing to train on: fcos_small needs at least one box.*--annotations"),
    (("shapes", *BOXES, "--executor", "ray", "--workers", "17"), "16 images for 17 workers.*fewer --workers"),
    (("shapes", *BOXES, "--val-split", "dev"), "no split 'dev' to validate on: it has train"),
    (("shapes", *BOXES, "--val-split", "train", "--best-metric", "AP99"), r"best_metric is 'AP99'.*gives AP, AP50"),
    (
        ("shapes", *PIXELS, "--val-split", "train", "--best-metric", "AP"),
        r"best_metric is 'AP'.*\(semantic\) gives Dice, IoU",
    ),
    (("shapes", *BOXES, "--patience", "3"), "patience is 3, but nothing is validated: dataset shapes has no split"),
    (
        ("shapes", *BOXES, "--patience", "3", "--val-split", "train", "--validate-every", "0"),
        "val_split is 'train', but nothing is validated: validate_every is 0",
    ),
    (("shapes", *BOXES, "--init", "/nowhere/weights.pth"), "no weights to start from at /nowhere/weights.pth"),
    (("pair", *BOXES, "--strict"), "refused by --strict.*pair:.*could hold 8 images.*epoch has 2.*lower --batch-size"),
]


@pytest.mark.parametrize(("words", "message"), ERRORS)
def test_what_cannot_work_is_reported_before_the_first_step(train: Run, words: tuple[str, ...], message: str) -> None:
    status, said = train(*words)
    assert status == 1
    assert "Traceback" not in said
    assert re.search(f"(?s)error: .*{message}", said), said


UNET = ("--model", "unet", "--option", "depth=1", "--option", "width=4")


@pytest.mark.parametrize("preview", [(), ("--preview", "1")])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*UNET, "--backbone-factor", "0.5"), "unet has no part called backbone.*leave --backbone-factor out"),
        ((*BOXES, "--elastic", "3"), "elastic is 3.0: expected 0, for detection models"),
        (
            ("--model", "tests.training.color_models:BOXES", "--multi-scale", "0.25"),
            "multi_scale is 0.25: expected 0, for the model's input has one size",
        ),
    ],
)
def test_settings_that_the_network_refuses_are_reported_before_the_name_is_taken(
    train: Run, warehouse: str, words: tuple[str, ...], message: str, preview: tuple[str, ...]
) -> None:
    status, said = train("shapes", *words, *preview)
    assert status == 1
    assert re.search(message, said), said
    assert not storage.exists(f"{warehouse}/checkpoints")


def test_a_category_that_no_image_has_is_named(train: Run, changed: Callable[..., None]) -> None:
    changed(lambda document: document["categories"].append({"id": 9, "name": "star"}))
    status, said = train("other", *PIXELS)
    assert status == 0
    assert re.search(r"note: 1 of 4 categories have no training images \(star\).*add images", said)
    strict, said = train("other", *PIXELS, "--strict", "--seed", "1")
    assert strict == 1
    assert re.search(r"(?s)error: refused by --strict.*\(star\)", said)


def test_boxes_outside_their_image_are_counted_with_their_images(train: Run, changed: Callable[..., None]) -> None:
    def push_out(document: dict[str, Any]) -> None:
        document["annotations"][0]["bbox"] = [60.0, 10.0, 20.0, 5.0]
        document["annotations"][1]["bbox"] = [70.0, 70.0, 5.0, 5.0]

    changed(push_out)
    status, said = train("other", *BOXES, "--strict")
    assert status == 1
    assert re.search(r"2 boxes leave their image \(000001\.png\): they are cut to it.*ingest them again", said)


def test_a_split_without_annotations_cannot_be_validated_on(
    train: Run, changed: Callable[..., None], drawn: Path, warehouse: str, tmp_path: Path
) -> None:
    changed(lambda document: None)
    (tmp_path / "bare").mkdir()
    shutil.copy(drawn / "shapes/train/images/000001.png", tmp_path / "bare/other.png")
    bare = IngestConfig("other", images=str(tmp_path / "bare"), format="none", split="val", warehouse=warehouse)
    ingest(bare, LocalExecutor())
    status, said = train("other", *BOXES)
    assert status == 1
    assert re.search(r"nothing to validate on: fcos_small needs at least.*split 'val'.*--validate-every 0", said)


def test_images_too_small_for_the_network_are_named(train: Run, changed: Callable[..., None], tmp_path: Path) -> None:
    changed(lambda document: None)
    Image.new("RGB", (6, 5)).save(tmp_path / "images" / "tiny.png")
    tiny = {"id": 99, "file_name": "tiny.png", "width": 6, "height": 5}
    changed(lambda document: document["images"].append(tiny))
    narrow = ("--model", "tests.training.color_models:WIDE")
    status, said = train("other", *PIXELS[2:], *narrow)
    assert status == 1
    assert re.search(
        r"image 99 \(tiny\.png\) of 6x5 pixels is too small for .*WIDE, which sees it as 6x5.*leave it out", said
    )


def test_images_too_narrow_for_the_network_are_named(train: Run, changed: Callable[..., None], tmp_path: Path) -> None:
    changed(lambda document: None)
    Image.new("RGB", (2000, 1)).save(tmp_path / "images" / "line.png")
    line = {"id": 99, "file_name": "line.png", "width": 2000, "height": 1}
    changed(lambda document: document["images"].append(line))
    status, said = train("other", *PIXELS[2:], "--model", "lraspp_mobilenet_v3_large", "--crop", "64", "64")
    assert status == 1
    assert (
        "image 99 (line.png): 2000x1 pixels become 1040000x520 for the network: too narrow an image for its input size; leave it"
        in said
    )


def test_what_the_random_changes_make_too_small_is_reported(train: Run) -> None:
    narrow = (*PIXELS[2:], "--model", "tests.training.color_models:WIDE")
    assert train("shapes", *narrow)[0] == 0
    status, said = train("shapes", *narrow, "--crop", "6", "5")
    assert status == 1
    assert re.search(r"a crop of 5x6 pixels is too small for .*WIDE, which sees it as 5x6.*crop\) for small ones", said)
    status, said = train("shapes", *narrow, "--multi-scale", "0.9")
    assert status == 1
    assert re.search(
        r"of 64x64 pixels, made smaller by multi_scale, is too small for .*WIDE, which sees it as 6x6", said
    )


def test_what_is_validated_on_is_stated(train: Run) -> None:
    status, said = train("shapes", *PIXELS, "--val-split", "train")
    assert status == 0
    assert "note: validated on split 'train' every epoch: the weights of the best Dice are kept" in said
    assert "validate" in said.replace("note: validated", "")  # its bar
    alone = train("pair", *BOXES, "--seed", "1")[1]
    assert "note: nothing is validated, pair has no split for it (val or test): the last weights are kept" in alone
    assert "'shardlens ingest --holdout 0.2' sets a split val apart" in alone


def test_a_cluster_that_is_named_and_not_used_is_a_warning(
    train: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert train("shapes", *PIXELS, "--validate-every", "0")[0] == 0
    (message,) = caplog.messages
    assert message.startswith("RAY_ADDRESS is set (head:6379)")


@pytest.mark.s3
def test_a_store_that_may_not_be_written_is_reported_before_the_first_step(
    train: Run, drawn: Path, s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for entry in storage.walk(str(drawn / "warehouse")):
        storage.publish(f"{s3.uri}/{entry.name}", storage.read(entry.uri))
    for name, value in s3.server.reader().items():
        monkeypatch.setenv(name, value)
    storage.forget_connections()
    status, said = train("shapes", *PIXELS, place=s3.uri)
    assert status == 1
    assert re.search(r"error: s3://.*/checkpoints/r0/run.json: access denied.*check the credentials", said)
