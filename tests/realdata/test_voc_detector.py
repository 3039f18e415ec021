"""A published VOC detector through ingest, prediction and evaluation: what an independent reading of it measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.base import Executor
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig, predict

pytestmark = [pytest.mark.realdata, pytest.mark.slow]
NAME = "MobileNetV2-YOLOv3-Nano-voc"


@pytest.fixture(scope="module")
def local() -> Iterator[Executor]:
    with open_executor() as executor:
        yield executor


@pytest.mark.parametrize(
    ("annotations", "ap50"),
    [
        pytest.param("formats/coco_format_v1/instances_default.json", 0.79, id="difficult objects count"),
        pytest.param("Annotations", 0.853, id="difficult objects are ignored"),
    ],
)
def test_it_scores_what_is_known_of_it(
    realdata: Path, tmp_path: Path, local: Executor, annotations: str, ap50: float
) -> None:
    """The COCO protocol on the 100 images; of its 273 objects the XML marks 38 as difficult, the JSON none."""
    folder, weights, place = realdata / "voc2012-100", realdata.parent / "weights", str(tmp_path / "warehouse")
    source = IngestConfig(
        "voc", images=str(folder / "JPEGImages"), annotations=str(folder / annotations), warehouse=place
    )
    report = ingest(source, local)
    assert (report.images, report.annotations) == (100, 273)
    network = NetworkConfig(
        model="darknet",
        option=(f"cfg={weights / NAME}.cfg",),
        weights=f"{weights / NAME}.weights",
        labels=str(weights / "voc.names"),
        score_threshold=0.001,
    )
    predicted = predict(PredictConfig("voc", network=network, precision="fp32", run="nano", warehouse=place), local)
    assert (predicted.quarantined, predicted.unmatched_labels) == (0, ())
    scored = evaluate(EvaluateConfig("nano", warehouse=place), local)
    found = {metric: value for task, metric, value in scored.summary() if task == "bbox"}
    assert found["AP50"] == pytest.approx(ap50, abs=0.01)
