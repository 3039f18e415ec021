"""Photos that EXIF turns score as the same photos untouched, whichever frame their annotations were drawn in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.base import Executor
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.images.decode import UPRIGHT
from shardlens.pipeline.images.orientation import INVERSE, boxes_xywh_to_stored_frame
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, predict

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

IMAGES = 60
AP = 0.241
"""Of the untouched photos, with boxes clipped to them."""


@pytest.fixture(scope="module")
def local() -> Iterator[Executor]:
    with open_executor() as executor:
        yield executor


def photos(realdata: Path) -> dict[str, Any]:
    """The first photos with their boxes, as a COCO document."""
    document = json.loads((realdata / "coco2017-subset" / "annotations" / "instances_val2017.json").read_text())
    images = sorted(document["images"], key=lambda image: image["file_name"])[:IMAGES]
    ids = {image["id"] for image in images}
    rows = [{**row, "segmentation": []} for row in document["annotations"] if row["image_id"] in ids]
    return {**document, "images": images, "annotations": rows}


def stored_turned(document: dict[str, Any], source: Path, folder: Path, orientation: int, form: str) -> dict[str, Any]:
    """Store the photos so that EXIF turns them back; returns the document that names the files, its boxes untouched."""
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    images = []
    for image in document["images"]:
        name = f"{Path(image['file_name']).stem}.{form.lower()}"
        pixels = np.asarray(Image.open(source / image["file_name"]).convert("RGB"))
        turned = np.ascontiguousarray(UPRIGHT[INVERSE[orientation]](pixels))
        Image.fromarray(turned).save(folder / name, form, exif=exif)
        images.append({**image, "file_name": name})
    return {**document, "images": images}


def in_stored_frame(document: dict[str, Any], orientation: int) -> dict[str, Any]:
    """The same document as drawn on the stored pixels, without a look at EXIF."""
    sizes = {}
    images = []
    for image in document["images"]:
        wide, high = image["width"], image["height"]
        sizes[image["id"]] = (high, wide) if orientation >= 5 else (wide, high)
        images.append({**image, "width": sizes[image["id"]][0], "height": sizes[image["id"]][1]})
    rows = []
    for row in document["annotations"]:
        box = boxes_xywh_to_stored_frame(np.array([row["bbox"]], float), orientation, *sizes[row["image_id"]])
        rows.append({**row, "bbox": box[0].tolist()})
    return {**document, "images": images, "annotations": rows}


def score(document: dict[str, Any], images: Path, tmp_path: Path, realdata: Path, local: Executor, frame: str) -> float:
    (tmp_path / "truth.json").write_text(json.dumps(document))
    where, root = str(tmp_path / "truth.json"), str(tmp_path / "warehouse")
    ingest(IngestConfig("photos", images=str(images), annotations=where, frame=frame, warehouse=root), local)  # type: ignore[arg-type]
    weights = realdata.parent / "weights"
    network = NetworkConfig(
        model="darknet",
        option=(f"cfg={weights / 'yolo-fastest-1.1-xl.cfg'}", "nms_threshold=0.45", "detections_per_image=100"),
        weights=str(weights / "yolo-fastest-1.1-xl.weights"),
        labels=str(weights / "coco.names"),
        score_threshold=0.001,
    )
    predict(PredictConfig("photos", network=network, precision="fp32", run="r", warehouse=root), local)
    scored = evaluate(EvaluateConfig("r", warehouse=root), local)
    return next(value or 0.0 for task, metric, value in scored.summary() if (task, metric) == ("bbox", "AP"))


@pytest.mark.parametrize(
    ("orientation", "form", "drawn_on", "frame"),
    [
        (1, "PNG", "upright", "auto"),
        (6, "PNG", "upright", "auto"),
        (6, "TIFF", "upright", "auto"),
        (6, "PNG", "stored", "auto"),
        (3, "TIFF", "upright", "upright"),
        (3, "PNG", "stored", "stored"),
    ],
)
def test_turned_photos_score_as_the_untouched(
    realdata: Path, local: Executor, tmp_path: Path, orientation: int, form: str, drawn_on: str, frame: str
) -> None:
    source = realdata / "coco2017-subset" / "val2017"
    document = stored_turned(photos(realdata), source, tmp_path / "images", orientation, form)
    if drawn_on == "stored":
        document = in_stored_frame(document, orientation)
    found = score(document, tmp_path / "images", tmp_path, realdata, local, frame)
    assert found == pytest.approx(AP, abs=0.002)
