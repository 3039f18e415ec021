"""Taking a dataset in again: what changed at its source is a new version, what did not is the same one."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.ingest import IngestConfig, ingest, refresh, sources
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.annotations.tiny import box, coco, image, jpeg, png, put, put_coco, voc_object, xml


def take(root: Path, **settings: object) -> IngestConfig:
    config = IngestConfig(**{"name": "set", "images": str(root / "images"), "warehouse": str(root / "w"), **settings})
    ingest(config, LocalExecutor())
    return config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path / "images", {"a.jpg": jpeg(1), "b.jpg": jpeg(2)})
    return tmp_path


def version(root: Path) -> str:
    return Dataset.open(Warehouse(str(root / "w")), "set").version


def test_new_images_are_a_new_version(folder: Path) -> None:
    take(folder)
    before = version(folder)
    put(folder / "images", {"c.jpg": jpeg(3)})
    (report,) = refresh(str(folder / "w"), "set", LocalExecutor())
    assert (report.images, report.version) == (3, version(folder))
    assert report.version != before


def test_the_same_images_are_the_same_version(folder: Path) -> None:
    take(folder)
    before = version(folder)
    refresh(str(folder / "w"), "set", LocalExecutor())
    assert version(folder) == before


def test_every_source_is_asked_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "classes.txt").write_text("cat\ndog\n")
    put(folder / "masks", {"a.png": png([[1]])})
    put_coco(folder, coco([image(3, "b.jpg")], [box(3, 3)], ((1, "cat"), (2, "dog"))), "val.json")
    train = {"annotations": "masks", "split": "train", "mask_kind": "semantic", "classes": "classes.txt"}
    first = take(folder, images="images", **train)
    second = take(folder, split="val", annotations=str(folder / "val.json"))
    monkeypatch.chdir("/")
    asked = sources(str(folder / "w"), "set")
    places = {name: str(folder / str(getattr(first, name))) for name in ("images", "annotations", "classes")}
    assert asked == [IngestConfig(**{**vars(first), **places}), second]


def test_an_ingest_whose_splits_were_replaced_is_not_repeated(folder: Path) -> None:
    voc = {f"VOC/Annotations/{name}.xml": xml(f"{name}.jpg", voc_object("cat")) for name in "ab"}
    lists = {"VOC/ImageSets/Main/train.txt": b"a\n", "VOC/ImageSets/Main/val.txt": b"b\n"}
    put(folder, {**voc, **lists})
    take(folder, annotations=str(folder / "VOC"))
    assert len(sources(str(folder / "w"), "set")) == 1
    take(folder, split="val", format="none")
    with pytest.raises(
        DatasetError, match=r"gave the splits train, val, of which only train are still in use.*--split"
    ):
        refresh(str(folder / "w"), "set", LocalExecutor())


def test_an_unknown_dataset_is_named(folder: Path) -> None:
    take(folder)
    with pytest.raises(DatasetError, match=r"no dataset 'sett'.*did you mean set"):
        refresh(str(folder / "w"), "sett", LocalExecutor())
