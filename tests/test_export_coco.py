from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pycocotools import mask as codec
from pycocotools.coco import COCO

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError, QueryError, RunError, StorageError
from shardlens.pipeline.export_coco import Chosen, export_coco, export_dataset
from shardlens.pipeline.import_coco import ImportConfig, import_coco
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.datasets import Dataset
from shardlens.pipeline.warehouse.layout import Warehouse
from shardlens.pipeline.warehouse.runs import RunRecord
from tests import small_warehouse as small
from tests.annotations.tiny import box, coco, image, jpeg, png, put, put_coco, take
from tests.conftest import Bucket


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    made = small.create(str(tmp_path / "wh"))
    small.add_dataset(made)
    return made


def commit(warehouse: Warehouse, *rows: dict[str, Any]) -> RunRecord:
    record = small.begin(warehouse, "a", 1)
    return runs.commit(record, [small.publish(record, 0, [1, 2], list(rows))], {})


def exported(record: RunRecord, output: str) -> Any:
    report = export_coco(record, output)
    found = json.loads(storage.read(report.uri))
    assert len(found) == report.rows
    return found


def test_boxes_to_the_last_bit(warehouse: Warehouse, tmp_path: Path) -> None:
    score = float(np.nextafter(0.1, 1))
    record = commit(warehouse, small.row(2, 0, score, bbox={"x": 0.1 + 0.2, "y": 1e-17, "width": 5.0, "height": 1 / 3}))
    entry = {"image_id": 2, "category_id": 1, "bbox": [0.1 + 0.2, 1e-17, 5.0, 1 / 3], "score": score}
    assert exported(record, str(tmp_path / "out.json")) == [entry]


def test_masks_of_instances_and_regions(warehouse: Warehouse, tmp_path: Path) -> None:
    rle = small.blob(5, 5, 10, 4)
    instance, region = (small.row(1, rank, 0.5, rle, kind=kind) for rank, kind in enumerate(("instance", "region")))
    first, second = exported(commit(warehouse, instance, region), str(tmp_path / "out.json"))
    assert first["segmentation"] == second["segmentation"] == {"size": [40, 60], "counts": rle.counts}
    assert first["bbox"] == [0.1, 2.0, 10.3, 5.0]
    assert "bbox" not in second


def test_rows_without_a_category_are_counted_and_left_out(warehouse: Warehouse, tmp_path: Path) -> None:
    stranger = small.row(1, 1, 0.4, category_id=None, category="yeti")
    record = commit(warehouse, small.row(1, 0, 0.5), stranger)
    assert [entry["category_id"] for entry in exported(record, str(tmp_path / "out.json"))] == [1]
    assert export_coco(record, str(tmp_path / "out.json")).left_out == 1


def test_all_shards_in_order_and_an_empty_run_is_an_empty_list(warehouse: Warehouse, tmp_path: Path) -> None:
    record = small.add_run(warehouse, "many", [[0.9, 0.1], [], [0.5], [0.4], [0.3, 0.2]])
    assert [(e["image_id"], e["score"]) for e in exported(record, str(tmp_path / "out.json"))] == [
        (1, 0.9),
        (1, 0.1),
        (3, 0.5),
        (4, 0.4),
        (5, 0.3),
        (5, 0.2),
    ]
    assert exported(small.add_run(warehouse, "none", [[], []]), str(tmp_path / "none.json")) == []


def test_what_is_chosen_by_score_split_and_condition(warehouse: Warehouse, tmp_path: Path) -> None:
    record = commit(warehouse, small.row(1, 0, 0.9), small.row(1, 1, 0.5, area=9.0), small.row(2, 0, 0.7))
    rename_split(warehouse, {1: "train", 2: "val"})

    def scores(**chosen: Any) -> tuple[list[float], int]:
        report = export_coco(record, str(tmp_path / "out.json"), Chosen(**chosen))
        return [entry["score"] for entry in json.loads(storage.read(report.uri))], report.not_chosen

    assert scores() == ([0.9, 0.5, 0.7], 0)
    assert scores(score_threshold=0.7) == ([0.9, 0.7], 1)
    assert scores(split="val") == ([0.7], 2)
    assert scores(where="area > 10 AND category = 'circle' -- large") == ([0.9, 0.7], 1)
    assert scores(score_threshold=0.8, where="rank = 0") == ([0.9], 2)
    with pytest.raises(ConfigError, match="dataset shapes has no split 'test': it has train, val"):
        scores(split="test")
    with pytest.raises(QueryError):
        scores(where="colour = 1")
    with pytest.raises(QueryError):
        scores(where="1=1); DROP VIEW predictions; SELECT (1")
    with pytest.raises(ConfigError, match=r"score threshold 5: expected a number from 0 to 1"):
        Chosen(score_threshold=5)


def rename_split(warehouse: Warehouse, splits: dict[int, str]) -> None:
    place = storage.join(warehouse.dataset("shapes", "v2"), "images.parquet")
    rows = [{**row, "split": splits.get(row["image_id"])} for row in tables.from_bytes(storage.read(place)).to_pylist()]
    storage.publish(place, tables.to_bytes(tables.from_rows(rows, tables.IMAGES)))


def test_text_ids_are_text_again(tmp_path: Path) -> None:
    document = coco(
        [image("im", "a.jpg"), image(7, "b.jpg")],
        [box("an", "im", category_id="c"), box(3, 7)],
        [("c", "cat"), (1, "dog")],
    )
    images = put(tmp_path / "images", {"a.jpg": jpeg(1), "b.jpg": jpeg(2)})
    _, dataset = take(tmp_path, images, put_coco(tmp_path, document))
    export_dataset(dataset, str(tmp_path / "again.json"))
    again = json.loads((tmp_path / "again.json").read_text())
    assert {entry["id"] for entry in again["images"]} == {"im", 7}
    assert {(entry["id"], entry["image_id"], entry["category_id"]) for entry in again["annotations"]} == {
        ("an", "im", "c"),
        (3, 7, 1),
    }
    root = str(tmp_path / "warehouse")
    results = [{"image_id": "im", "category_id": "c", "bbox": [1.0, 2.0, 10.0, 20.0], "score": 0.5}]
    place = put(tmp_path, {"r.json": json.dumps(results).encode()}) + "/r.json"
    import_coco(ImportConfig("set", predictions=place, run="r", warehouse=root))
    assert exported(runs.open_committed(Warehouse(root), "r"), str(tmp_path / "out.json")) == results


def test_semantic_masks_come_back_as_regions(tmp_path: Path) -> None:
    masks = {
        "set/images/a.jpg": jpeg(1),
        "set/masks/a.png": png(np.pad(np.full((8, 8), 3, np.uint8), ((0, 40), (0, 56)))),
    }
    _, dataset = take(tmp_path, put(tmp_path, masks) + "/set", mask_kind="semantic")
    export_dataset(dataset, str(tmp_path / "again.json"))
    document = json.loads((tmp_path / "again.json").read_text())
    assert document["categories"][0]["isthing"] == 0
    _, again = take(tmp_path, str(tmp_path / "set"), str(tmp_path / "again.json"), name="again")
    columns = ["annotation_id", "category_id", "kind", "bbox", "area", "segmentation"]
    assert again.annotations.select(columns) == dataset.annotations.select(columns)
    assert again.annotations["kind"].to_pylist() == ["region"]


def test_a_run_that_is_not_committed_is_refused(warehouse: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="run 'open' is not complete"):
        export_coco(small.begin(warehouse, "open", 1), str(tmp_path / "out.json"))
    assert not (tmp_path / "out.json").exists()


def test_pycocotools_takes_results_and_instances(warehouse: Warehouse, tmp_path: Path) -> None:
    record = commit(warehouse, small.row(1, 0, 0.5, small.blob(5, 5, 10, 4), kind="instance"))
    export_dataset(Dataset.open(warehouse, "shapes"), str(tmp_path / "instances.json"))
    export_coco(record, str(tmp_path / "results.json"))
    truth = COCO(str(tmp_path / "instances.json"))
    found = truth.loadRes(str(tmp_path / "results.json"))
    assert codec.area(found.annToRLE(found.loadAnns(1)[0])) == 40
    assert [truth.anns[10][key] for key in ("bbox", "category_id", "iscrowd")] == [[1.0, 2.0, 10.0, 5.0], 1, 0]


def test_a_dataset_with_everything_in_it(warehouse: Warehouse, tmp_path: Path) -> None:
    report = export_dataset(Dataset.open(warehouse, "shapes"), str(tmp_path / "out.json"))
    found = json.loads((tmp_path / "out.json").read_text())
    assert {key: len(found[key]) for key in ("images", "annotations", "categories")} == {
        "images": 6,
        "annotations": report.rows,
        "categories": 3,
    }
    assert found["images"][0] == {"id": 1, "file_name": "pictures/001.png", "width": 60, "height": 40}
    assert found["categories"][1] == {"id": 3, "name": "square"}


@pytest.mark.s3
def test_into_a_bucket(s3: Bucket) -> None:
    record = small.add_run(small.create(f"{s3.uri}/wh"), "a", [[0.5], [0.4]])
    assert [entry["score"] for entry in exported(record, f"{s3.uri}/out.json")] == [0.5, 0.4]


def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    warehouse = small.create("memory://export-test/wh")

    def peak(shards: int) -> int:
        record = small.begin(warehouse, f"run-{shards}", shards)
        table = tables.from_rows([small.row(1, 0, 0.5)], tables.PREDICTIONS).take(pa.array(np.zeros(200, np.int64)))
        outcomes = tables.from_rows([{"image_id": 1, "status": "ok", "predictions": 200}], tables.OUTCOMES)
        record = runs.commit(record, [runs.publish(record, s, table, outcomes) for s in range(shards)], {})
        tracemalloc.start()
        export_coco(record, str(tmp_path / "out.json"))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(100) < 1.1 * peak(60)
    assert storage.size(str(tmp_path / "out.json")) > 100_000


def test_an_old_file_stays_until_the_new_one_is_complete(warehouse: Warehouse, tmp_path: Path) -> None:
    record = small.add_run(warehouse, "a", [[0.5], [0.5], [0.4]])
    (tmp_path / "out.json").write_text("old")
    storage.delete(record.prediction_parts()[1])
    with pytest.raises(StorageError, match="not found"):
        export_coco(record, str(tmp_path / "out.json"))
    assert (tmp_path / "out.json").read_text() == "old"
