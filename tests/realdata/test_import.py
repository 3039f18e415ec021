"""A detector's output on Pascal VOC images, in COCO's form with ids of its own, imported, scored and exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from shardlens.pipeline import storage
from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.base import ExecutorConfig
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.export_coco import export_coco, export_dataset
from shardlens.pipeline.import_coco import ImportConfig, import_coco
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.query import query
from shardlens.pipeline.warehouse import runs
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import Warehouse

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def wh(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    root = str(tmp_path_factory.mktemp("import") / "wh")
    voc = realdata / "voc2012-100"
    with open_executor(ExecutorConfig()) as executor:
        places = {"images": str(voc / "JPEGImages"), "annotations": str(voc / "Annotations")}
        ingest(IngestConfig("voc", format="voc", warehouse=root, **places), executor)
        import_coco(ImportConfig("voc", predictions=str(results(realdata)), run="theirs", warehouse=root))
        evaluate(EvaluateConfig("theirs", warehouse=root), executor)
    return root


def results(realdata: Path) -> Path:
    return realdata / "voc2012-100/detections/coco_format/coco_dets.json"


def test_every_detection_lies_on_its_image(realdata: Path, wh: str) -> None:
    document = json.loads(results(realdata).read_text())
    names = {image["id"]: image["file_name"] for image in document["images"]}
    categories = {category["id"]: category["name"] for category in document["categories"]}
    theirs = sorted(
        (names[a["image_id"]], categories[a["category_id"]], a["score"], *a["bbox"]) for a in document["annotations"]
    )
    ours = query(
        wh,
        "SELECT file_name, category, score, bbox.x, bbox.y, bbox.width, bbox.height FROM predictions JOIN images USING "
        "(dataset, image_id) ORDER BY ALL",
    )
    assert list(zip(*ours.to_pydict().values(), strict=True)) == theirs


def test_the_score_is_that_of_pycocotools_on_the_exported_files(wh: str, tmp_path: Path) -> None:
    warehouse = Warehouse(wh)
    export_dataset(Dataset.open(warehouse, "voc"), str(tmp_path / "instances.json"))
    export_coco(runs.open_committed(warehouse, "theirs"), str(tmp_path / "results.json"))
    truth = COCO(str(tmp_path / "instances.json"))
    for annotation in truth.dataset["annotations"]:
        if annotation.get(
            "ignore"
        ):  # which pycocotools forgets; an area outside every range is neither found nor missed
            annotation["area"] = 1e11
    reference = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    ours = query(wh, "SELECT metric, value FROM metrics WHERE category IS NULL AND task = 'bbox'").to_pydict()
    scores = dict(zip(ours["metric"], ours["value"], strict=True))
    assert [scores[metric] for metric in ("AP", "AP50", "AP75", "AR1", "AR10", "AR100")] == [
        reference.stats[i] for i in (0, 1, 2, 6, 7, 8)
    ]
    assert scores["AP50"] == pytest.approx(0.613, abs=0.001)


def test_importing_the_export_gives_the_same_parts(wh: str, tmp_path: Path) -> None:
    warehouse = Warehouse(wh)
    first = runs.open_committed(warehouse, "theirs")
    export_coco(first, str(tmp_path / "results.json"))
    import_coco(ImportConfig("voc", predictions=str(tmp_path / "results.json"), run="again", warehouse=wh))
    again = runs.open_committed(warehouse, "again")
    for old, new in zip(first.prediction_parts(), again.prediction_parts(), strict=True):
        assert storage.read(old) == storage.read(new)
