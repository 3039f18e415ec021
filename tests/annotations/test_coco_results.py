from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from shardlens.pipeline import masks
from shardlens.pipeline.annotations.coco_results import Scope, read
from shardlens.pipeline.errors import ConfigError, DatasetError
from shardlens.pipeline.warehouse import tables
from tests import small_warehouse as small

ENTRY = {"image_id": 1, "category_id": 3, "bbox": [1, 2.5, 3, 4], "score": 0.25}
RLE = {"size": [40, 60], "counts": small.blob(5, 6, 10, 4).counts}


def scope(**settings: Any) -> Scope:
    names = ("a/001.png", "a/002.png", "b/002.png")
    images = [
        {"image_id": i, "file_name": name, "uri": name, "height": 40, "width": 60, "flags": []}
        for i, name in zip((1, 2, 5), names, strict=True)
    ]
    categories = [{"category_id": i, "name": name} for i, name in ((3, "dog"), (8, "aeroplane"))]
    made = tables.from_rows(images, tables.IMAGES), tables.from_rows(categories, tables.CATEGORIES)
    return Scope("/results.json", *made, **settings)


def rows(document: Any, **settings: Any) -> list[dict[str, Any]]:
    return read(json.dumps(document).encode(), scope(**settings)).to_pylist()


def test_a_list_of_boxes() -> None:
    (row,) = rows([{**ENTRY, "extra": 1}])
    assert row == {
        "image_id": 1,
        "rank": 0,
        "category_id": 3,
        "category": "dog",
        "kind": "box",
        "score": 0.25,
        "bbox": {"x": 1.0, "y": 2.5, "width": 3.0, "height": 4.0},
        "area": 12.0,
        "segmentation": None,
        "file_name": row["file_name"],
    }
    assert row["file_name"] is not None


def test_masks_in_each_form_are_the_same_instance() -> None:
    plain = {"image_id": 1, "category_id": 3, "score": 0.25}
    lengths = masks.run_lengths(small.blob(5, 6, 10, 4)).tolist()
    polygon = [5, 6, 15, 6, 15, 10, 5, 10]
    forms = [RLE, {"size": [40, 60], "counts": lengths}, [polygon]]
    first, *others = rows([{**plain, "segmentation": form} for form in forms])
    assert (first["kind"], first["area"]) == ("instance", 40.0)
    assert first["bbox"] == {"x": 5.0, "y": 6.0, "width": 10.0, "height": 4.0}
    assert others == [first, first]


def test_a_box_beside_a_mask_is_kept() -> None:
    (row,) = rows([{**ENTRY, "segmentation": RLE}])
    assert (row["kind"], row["bbox"]["x"], row["area"]) == ("instance", 1.0, 40.0)


def test_regions_need_no_score() -> None:
    region = {"image_id": 1, "category_id": 3, "segmentation": RLE}
    scored, plain = rows([{**region, "score": 0.5}, region], semantic=True)
    assert (scored["kind"], scored["score"], plain["score"]) == ("region", 0.5, 1.0)
    with pytest.raises(DatasetError, match=r"\[0\]: segmentation is NoneType None, expected the mask of a region"):
        rows([ENTRY], semantic=True)


def test_an_empty_list_has_no_rows() -> None:
    assert read(b"[]", scope()).schema == tables.PREDICTIONS
    assert rows([]) == []


def test_a_category_that_the_dataset_lacks_is_kept_without_id() -> None:
    known = scope()
    found = read(json.dumps([ENTRY, {**ENTRY, "category_id": 80}]).encode(), known).to_pylist()
    assert [(row["category_id"], row["category"]) for row in found] == [(3, "dog"), (None, "80")]
    assert known.unknown_categories == {"80": 1}


def test_a_documents_category_that_the_dataset_lacks_keeps_its_name() -> None:
    listed = [{"id": 1, "name": "Dog"}, {"id": 2, "name": "zebra"}]
    entries = [{**ENTRY, "category_id": number} for number in (1, 2)]
    found = [(row["category_id"], row["category"]) for row in rows({"categories": listed, "annotations": entries})]
    assert found == [(3, "dog"), (None, "zebra")]
    with pytest.raises(
        DatasetError, match=r"none of its 1 categories \(zebra\) is one of the dataset's 2 \(dog, aeroplane\)"
    ):
        rows({"categories": listed[1:], "annotations": entries[1:]})


@pytest.mark.parametrize(("first", "second"), [("sofa", "couch"), ("RBC", "rbc")])
def test_categories_spelled_alike_are_told_apart_by_their_exact_names(first: str, second: str) -> None:
    made = tables.from_rows([{"category_id": i, "name": n} for i, n in ((3, first), (4, second))], tables.CATEGORIES)
    listed = [{"id": 7, "name": second}, {"id": 9, "name": first}]
    entries = [{**ENTRY, "category_id": number} for number in (7, 9)]
    document = json.dumps({"categories": listed, "annotations": entries}).encode()
    assert read(document, Scope("/r.json", scope().images, made))["category_id"].to_pylist() == [4, 3]
    doubtful = document.replace(second.encode(), second.title().encode(), 1)
    doubtful = document.replace(f'"{first}"'.encode(), b'"x"').replace(second.encode(), second.title().encode())
    with pytest.raises(ConfigError, match=f"the category '{second.title()}' could be any of the categories 3 "):
        read(doubtful, Scope("/r.json", scope().images, made))


def test_a_documents_own_text_ids() -> None:
    document = {
        "images": [{"id": "x", "file_name": "a/002.png"}],
        "categories": [{"id": "d", "name": "dog"}],
        "annotations": [{**ENTRY, "image_id": "x", "category_id": "d"}],
    }
    assert [(row["image_id"], row["category_id"]) for row in rows(document)] == [(2, 3)]


def test_whole_numbers_may_be_written_with_a_point() -> None:
    assert rows([{**ENTRY, "image_id": 1.0, "category_id": 3.0}]) == rows([ENTRY])


def test_of_a_masks_polygons_the_valid_ones_are_drawn() -> None:
    known, polygon = scope(), [5, 6, 15, 6, 15, 10, 5, 10]
    entries = [{**ENTRY, "segmentation": [polygon]}, {**ENTRY, "segmentation": [polygon, [1, 2, 3, 4], [1, "x"]]}]
    first, second = read(json.dumps(entries).encode(), known).to_pylist()
    assert first == second
    assert known.bad_polygons == 2


def test_a_document_is_matched_by_names() -> None:
    document = {
        "annotations": [{**ENTRY, "image_id": 0, "category_id": 0, "segmentation": []}, {**ENTRY, "image_id": 9}],
        "categories": [{"id": 0, "name": "airplane"}, {"id": 3, "name": "Dog"}],
        "images": [{"id": 0, "file_name": "b/002.png"}, {"id": 9, "file_name": "001.png"}, {"id": 7, "file_name": "x"}],
    }
    found = [(row["image_id"], row["category_id"], row["category"]) for row in rows(document)]
    assert found == [(5, 8, "aeroplane"), (1, 3, "dog")]


def test_a_file_name_that_two_images_share_settles_nothing() -> None:
    document = {"images": [{"id": 0, "file_name": "002.png"}], "annotations": [{**ENTRY, "image_id": 0}]}
    with pytest.raises(DatasetError, match=r"annotations\[0\]: image_id 0 \(002.png\) is none of the 3 images"):
        rows(document)


def test_a_dataset_without_categories_takes_any() -> None:
    bare = scope()
    bare = Scope(bare.where, bare.images, tables.CATEGORIES.empty_table())
    (row,) = read(json.dumps([ENTRY]).encode(), bare).to_pylist()
    assert (row["category_id"], row["category"]) == (3, "3")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_id": 4}, r"image_id 4 is none of the 3 images of the dataset, whose ids are 1 to 5"),
        ({"image_id": "1"}, r"image_id is str '1', expected a whole number"),
        ({"image_id": None}, r"image_id is NoneType None"),
        ({"category_id": True}, r"category_id is bool True"),
        ({"score": float("nan")}, r"score is float nan, expected a finite number"),
        ({"score": float("inf")}, r"score is float inf"),
        ({"score": 10**400}, r"score is int 1000"),
        ({"score": "high"}, r"score is str 'high'"),
        ({"bbox": [1, 2, 3]}, r"bbox is list \[1, 2, 3\], expected four finite numbers"),
        ({"bbox": [1, 2, 3, float("nan")]}, r"bbox is list \[1, 2, 3, nan\]"),
        ({"bbox": [5, 5, -1, 2]}, r"bbox is list .*, expected a width and height of 0 or more \(not corners\)"),
        ({"bbox": {"x": 1}}, r"bbox is dict"),
        ({"segmentation": {"size": [20, 60], "counts": [1200]}}, r"segmentation has the size 20 x 60 .*image 40 x 60"),
        ({"segmentation": {"size": [40, 60], "counts": [1, 2]}}, r"segmentation: RLE counts of 3 pixels"),
        ({"segmentation": {"size": [40, 60]}}, r"segmentation: segmentation is dict"),
        ({"segmentation": [[1, 2, 3, 4]]}, r"segmentation: a polygon of 4 numbers"),
        ({"segmentation": {"size": [40, 60], "counts": [1, [2]]}}, r"segmentation: RLE counts \[1, \[2\]\]: expected"),
        ({"segmentation": {"size": [40, 60], "counts": [True, 2399]}}, r"segmentation: RLE counts \[True, 2399\]"),
        ({"segmentation": {"size": [40, 60], "counts": [10**30]}}, r"segmentation: RLE counts \[1000"),
        ({"segmentation": {"size": [40, 60], "counts": [1 << 63] * 2}}, r"segmentation: RLE counts"),
        ({"segmentation": {"size": [40, 60], "counts": "\ud800"}}, r"segmentation: RLE counts"),
        ({"segmentation": {"size": [True, 2400], "counts": [2400]}}, r"segmentation: segmentation is dict"),
        ({"segmentation": {"size": [2**31 - 1, 2**31 - 1], "counts": "o" * 30}}, r"segmentation: RLE counts"),
        ({"segmentation": 5}, r"segmentation: segmentation is int 5"),
        ({"bbox": [True, 1, 2, 3]}, r"bbox is list \[True"),
        ({"bbox": [10**30, 1, 2, 3]}, r"bbox is list \[1000"),
        ({"score": [0.5]}, r"score is list \[0.5\]"),
        ({"image_id": 1.5}, r"image_id is float 1.5"),
        ({"image_id": [1]}, r"image_id is list \[1\]"),
    ],
)
def test_a_wrong_entry_is_named_by_index_and_key(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DatasetError, match=r"^/results.json: \[1\]: " + said):
        rows([ENTRY, {**ENTRY, **change}])


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "score"])
def test_a_missing_key_is_named(key: str) -> None:
    entry = {name: value for name, value in ENTRY.items() if name != key}
    with pytest.raises(DatasetError, match=rf"\[0\] has no key '{key}'; its keys are "):
        rows([entry])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("[1]", r"\[0\] is int 1, expected an object"),
        ('[{"image_id": 1,', r"line 1, column \d+: not JSON"),
        ("[] []", r"more text after the end of the list"),
        ('{"images": []}', r"has the keys images: expected a list of results, or an object with"),
        ("{}", "has the keys none"),
        ('{"images": [5], "annotations": []}', r"images\[0\] is int 5, expected an object"),
        ('{"categories": [{"id": 1}], "annotations": []}', r"categories\[0\] has no key 'name'"),
        ('{"categories": [{"id": null, "name": "dog"}], "annotations": []}', r"categories\[0\]: id is NoneType None"),
        ('{"annotations": 5}', r"'annotations' is int 5, expected a list"),
        ("[" * 100_000, r"line 1, column 2: not JSON \(nested too deep\)"),
        ('[{"image_id": ' + "9" * 5000 + "}]", r"\[0\]: image_id is float inf, expected a whole number"),
        ('"text"', "holds a JSON str"),
        ('{"annotations": [{"image_id": 1, "category_id": 3}]}', r"annotations\[0\] has no key 'bbox'"),
    ],
)
def test_a_file_that_holds_no_results(text: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        read(text.encode(), scope())


def test_the_split_is_named() -> None:
    with pytest.raises(DatasetError, match="of the split 'val'"):
        rows([{**ENTRY, "image_id": 4}], split="val")


def test_many_entries_are_packed_in_chunks() -> None:
    table = read(json.dumps([ENTRY] * 20_000).encode(), scope())
    assert (table.num_rows, table["image_id"].num_chunks) == (20_000, 2)
    assert pa.compute.sum(table["score"]).as_py() == 5000.0
