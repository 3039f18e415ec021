"""Headers read in batches: long headers, any order of arrival, workers that die."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from shardlens.pipeline.annotations import plain
from shardlens.pipeline.annotations.inspection import BATCH, HEADER, Batch, Inspect, Inspected, batches, inspect
from shardlens.pipeline.annotations.source import Request, Source
from shardlens.pipeline.executors.base import Done, Item, Lost, Progress, Result, Stage, no_progress
from tests.annotations.tiny import HEIGHT, WIDTH, Here, jpeg, put, tar
from tests.drawn_images import encode, forged_jpeg, picture


class Deadly(Here):
    """Loses every batch that holds an image of a deadly name, as a dying worker would."""

    def map(
        self, stage: Stage[Item, Result], items: Iterable[Item], attempts: int = 3
    ) -> Iterator[Done[Item, Result] | Lost[Item]]:
        run = stage.setup()
        for item in items:
            is_deadly = isinstance(item, Batch) and any("deadly" in name for name in item.file_names)
            yield Lost(item, attempts, "killed by signal 11") if is_deadly else Done(item, run(item))


def source(images: str) -> Source:
    return plain.read(Request(images), Here())


def sizes(found: list[Inspected]) -> list[tuple[int, int] | None]:
    return [size for batch in found for size in batch.sizes]


def test_a_header_longer_than_the_first_read_is_found(tmp_path: Path) -> None:
    long = encode(picture(HEIGHT, WIDTH), icc_profile=bytes(4 * HEADER))
    images = put(tmp_path, {"a.jpg": long, "x.tar": tar({"b.jpg": long})})
    member = source(f"{images}/x.tar").images
    for found in (source(images).images, member):
        assert Inspect().run(next(batches(found))).sizes == ((WIDTH, HEIGHT),)


def test_a_header_tells_the_size_whatever_it_claims(tmp_path: Path) -> None:
    images = put(tmp_path, {"a.jpg": forged_jpeg(), "b.png": encode(picture(9, 7), "PNG"), "c.jpg": b"text"})
    found = inspect(source(images), Here(), no_progress)
    assert sizes(found) == [(65500, 65500), (7, 9), None]
    assert [(row, kind) for row, kind, _ in found[0].faults] == [(2, "unreadable-image")]


def test_results_come_in_the_order_of_the_rows(tmp_path: Path) -> None:
    count = 2 * BATCH + 5
    images = put(tmp_path, {f"{i:04d}.png": encode(picture(4, 1 + i % 50), "PNG") for i in range(count)})
    seen: list[Progress] = []
    found = inspect(source(images), Here(order=lambda items: items[::-1]), seen.append)
    assert sizes(found) == [(1 + i % 50, 4) for i in range(count)]
    assert [progress.done for progress in seen] == [0, 5, BATCH + 5, count]
    assert {progress.total for progress in seen} == {count}


def test_an_image_that_kills_its_worker_costs_no_neighbor(tmp_path: Path) -> None:
    images = put(tmp_path, {"a.jpg": jpeg(), "deadly.jpg": jpeg(), "z.jpg": jpeg()})
    found = inspect(source(images), Deadly(), no_progress)
    assert sizes(found) == [(WIDTH, HEIGHT), None, (WIDTH, HEIGHT)]
    faults = [fault for batch in found for fault in batch.faults]
    assert faults == [(1, "unreadable-image", "deadly.jpg: reading it ended the worker (killed by signal 11)")]
    assert pa.concat_tables([batch.annotations for batch in found]).num_rows == 0


def test_an_orientation_behind_the_pixels_of_a_large_png_is_found(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    plain_png = encode(noise, "PNG")
    content = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = len(content).to_bytes(4, "big") + b"eXIf" + content + zlib.crc32(b"eXIf" + content).to_bytes(4, "big")
    late = plain_png[:-12] + chunk + plain_png[-12:]
    assert len(late) > 2 * HEADER
    images = put(tmp_path, {"a.png": late, "b.png": plain_png, "x.tar": tar({"c.png": late})})
    for found, expected in ((source(images), [6, 1]), (source(f"{images}/x.tar"), [6])):
        headers = Inspect().run(next(batches(found.images))).headers
        assert [header.orientation for header in headers if header] == expected
