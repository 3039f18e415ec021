"""An ingest reads the headers of new and changed images alone, and comes to what a full one comes to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shardlens.pipeline import storage
from shardlens.pipeline.annotations.inspection import Batch
from shardlens.pipeline.executors.base import Done, Item, Lost, Result, Stage
from shardlens.pipeline.ingest import IngestConfig, IngestReport, ingest
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.annotations.tiny import Here, box, coco, image, jpeg, put, put_coco, voc_object, xml
from tests.conftest import Bucket
from tests.drawn_images import encode


class Counting(Here):
    """Counts the headers and the annotation files that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.headers, self.files = 0, 0

    def map(
        self, stage: Stage[Item, Result], items: Iterable[Item], attempts: int = 3
    ) -> Iterator[Done[Item, Result] | Lost[Item]]:
        for done in super().map(stage, items, attempts):
            if isinstance(done.item, Batch):
                self.headers += sum(place is not None for place in done.item.images)
                self.files += sum(place is not None for place in done.item.sidecars)
            yield done


def take(root: str, images: str, **settings: Any) -> tuple[IngestReport, Counting]:
    executor = Counting()
    return ingest(IngestConfig("set", images=images, warehouse=f"{root}/w", **settings), executor), executor


def dot(number: int) -> bytes:
    return encode(Image.new("RGB", (4, 3), (number % 256, number // 256, 7)), "PNG")


def test_of_a_thousand_images_the_ten_new_ones_are_read(tmp_path: Path) -> None:
    folder = put(tmp_path / "images", {f"{i:04}.png": dot(i) for i in range(990)})
    assert take(str(tmp_path), folder)[1].headers == 990
    put(tmp_path / "images", {f"new-{i}.png": dot(1000 + i) for i in range(10)})
    report, executor = take(str(tmp_path), folder)
    assert (executor.headers, report.images, report.unchanged) == (10, 1000, 990)
    assert "not read again: 990 images that have not changed" in str(report)
    report, executor = take(str(tmp_path), folder, full=True)
    assert (executor.headers, report.unchanged) == (1000, 0)
    assert take(str(tmp_path), folder)[1].headers == 0


@pytest.mark.parametrize("place", ["memory", pytest.param("s3", marks=pytest.mark.s3)])
def test_changed_objects_of_a_store_are_read(tmp_path: Path, place: str, request: pytest.FixtureRequest) -> None:
    bucket: Bucket | None = request.getfixturevalue("s3") if place == "s3" else None
    root = bucket.uri if bucket else f"memory://{tmp_path.name}"
    for number in range(3):
        storage.publish(f"{root}/in/{number}.png", dot(number))
    first, _ = take(root, f"{root}/in")
    assert take(root, f"{root}/in")[1].headers == 0
    storage.publish(f"{root}/in/1.png", encode(Image.new("RGB", (9, 8), 5), "PNG"))
    report, executor = take(root, f"{root}/in")
    assert (executor.headers, report.version == first.version) == (1, False)
    dataset = Dataset.open(Warehouse(f"{root}/w"), "set")
    assert dataset.images["width"].to_pylist() == [4, 9, 4]
    assert dataset.images["etag"].null_count == 0


def turned(seed: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(Image.new("RGB", (20, 10), (seed, 9, 9)), "JPEG", exif=exif)


@pytest.mark.parametrize("kind", ["none", "voc", "coco"])
def test_what_is_taken_over_is_what_would_be_read(tmp_path: Path, kind: str) -> None:
    files = {"images/a.jpg": turned(1), "images/b.jpg": jpeg(2), "images/c.jpg": b"no image", "images/e.jpg": jpeg(2)}
    files["images/d.png"] = encode(Image.new("I;16", (8, 8), 999), "PNG")
    if kind == "voc":
        files |= {f"xml/{n}.xml": xml(f"{n}.jpg", voc_object("cat", (1, 2, 5, 6))) for n in "ab"}
    put(tmp_path, files)
    listed = coco(
        [image(i, n) for i, n in enumerate(("a.jpg", "b.jpg", "c.jpg", "gone.jpg"), 1)], [box(1, 1), box(2, 2)]
    )
    annotations = {"none": None, "voc": str(tmp_path / "xml"), "coco": put_coco(tmp_path, listed)}[kind]
    first, _ = take(str(tmp_path), str(tmp_path / "images"), annotations=annotations)
    again, executor = take(str(tmp_path), str(tmp_path / "images"), annotations=annotations)
    full, _ = take(str(tmp_path), str(tmp_path / "images"), annotations=annotations, full=True)
    assert first.version == again.version == full.version
    assert first.problems == again.problems == full.problems
    assert first.notes == again.notes == full.notes
    assert executor.headers == {"none": 1, "voc": 1, "coco": 2}[kind]  # those that could not be read
