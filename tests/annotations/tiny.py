"""Tiny datasets in the real formats, and an executor that runs in this process."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from shardlens.pipeline.annotations.assembly import Assembled, assemble
from shardlens.pipeline.annotations.inspection import inspect
from shardlens.pipeline.annotations.source import Reader, Request, Source
from shardlens.pipeline.executors.base import Done, Item, Lost, Placement, Result, Stage, no_progress
from shardlens.pipeline.ingest import IngestConfig, IngestReport, ingest
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import Warehouse
from tests.drawn_images import encode, picture

WIDTH, HEIGHT = 64, 48


class Here:
    """Runs stages in this process, one item after another."""

    placement = Placement()

    def __init__(self, order: Callable[[list[Any]], list[Any]] = list) -> None:
        self.order = order

    def map(
        self, stage: Stage[Item, Result], items: Iterable[Item], attempts: int = 3
    ) -> Iterator[Done[Item, Result] | Lost[Item]]:
        run = stage.setup()
        for item in self.order(list(items)):
            yield Done(item, run(item))

    def close(self) -> None:
        """Nothing is held."""


def put(root: Path, files: Mapping[str, bytes]) -> str:
    """Write files below `root`; returns its URI."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return str(root)


def jpeg(seed: int = 0) -> bytes:
    """A JPEG of 64 x 48 pixels."""
    return encode(picture(HEIGHT, WIDTH, seed))


def png(ids_hw: Any, mode: str | None = None) -> bytes:
    """A mask PNG of the given ids."""
    image = Image.fromarray(np.asarray(ids_hw) if isinstance(ids_hw, np.ndarray) else np.array(ids_hw, np.uint8))
    return encode(image.convert(mode) if mode else image, "PNG")


def tar(members: Mapping[str, bytes], **options: Any) -> bytes:
    """A tar of `members`."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", **options) as file:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return sink.getvalue()


def image(image_id: int, file_name: str, **columns: Any) -> dict[str, Any]:
    """An image of a COCO document."""
    return {"id": image_id, "file_name": file_name, "width": WIDTH, "height": HEIGHT, **columns}


def box(annotation_id: int, image_id: int, bbox: Sequence[float] = (1, 2, 10, 20), **columns: Any) -> dict[str, Any]:
    """An annotation of a COCO document."""
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "bbox": list(bbox),
        "area": 200,
        "iscrowd": 0,
        **columns,
    }


def coco(
    images: list[Any], annotations: list[Any], categories: Sequence[tuple[int, str]] = ((1, "cat"), (7, "dog"))
) -> dict[str, Any]:
    """A COCO document."""
    listed = [{"id": number, "name": name, "supercategory": "animal"} for number, name in categories]
    return {"info": {"year": 2024}, "images": images, "annotations": annotations, "categories": listed}


def put_coco(root: Path, document: Any, name: str = "instances.json") -> str:
    """Write a COCO document; returns its URI."""
    return put(root, {name: json.dumps(document).encode()}) + f"/{name}"


def xml(file_name: str, *objects: str, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A Pascal VOC annotation."""
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>\n<filename>{file_name}</filename>{size}\n{''.join(objects)}</annotation>".encode()


def voc_object(name: str, corners: Sequence[object] = (1, 2, 11, 22), difficult: int = 0) -> str:
    """An object of a Pascal VOC annotation."""
    sides = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>\n"


def assembled(
    read: Reader, images: str, annotations: str | None = None, **request: Any
) -> tuple[Assembled, dict[str, int], Source]:
    """Read, inspect and assemble; returns also the count of each kind of problem."""
    source = read(Request(images, annotations, **request), Here())
    content = assemble(source, inspect(source, Here(), no_progress), source.problems)
    return content, {problem.kind: problem.count for problem in source.problems.found()}, source


def take(
    tmp_path: Path, images: str, annotations: str | None = None, name: str = "set", **config: Any
) -> tuple[IngestReport, Dataset]:
    """Ingest into the warehouse of the test, and open the result."""
    warehouse = config.pop("warehouse", str(tmp_path / "warehouse"))
    report = ingest(IngestConfig(name, images=images, annotations=annotations, warehouse=warehouse, **config), Here())
    return report, Dataset.open(Warehouse(warehouse), name)


def rows(table: pa.Table, *columns: str) -> list[tuple[Any, ...]]:
    """The rows of a table as tuples."""
    return list(zip(*(table[column].to_pylist() for column in columns), strict=True))
