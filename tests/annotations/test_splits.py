"""Merging the splits of several ingests."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from shardlens.pipeline.annotations.assembly import Assembled
from shardlens.pipeline.annotations.source import annotation_row
from shardlens.pipeline.annotations.splits import Part, merge, of_splits
from shardlens.pipeline.errors import DatasetError
from shardlens.pipeline.warehouse import tables
from tests.annotations.tiny import rows


def part(
    split: str | None,
    images: dict[int, str],
    annotations: list[tuple[int, int, str]],
    categories: dict[str, int],
    given: bool,
) -> Part:
    listed = [
        {"image_id": i, "file_name": name, "uri": f"/{split}/{name}", "split": split, "flags": []}
        for i, name in images.items()
    ]
    found = [
        annotation_row(annotation_id=a, image_id=i, category=c, category_id=categories[c]) for a, i, c in annotations
    ]
    named = [{"category_id": number, "name": name} for name, number in categories.items()]
    content = Assembled(
        tables.from_rows(listed, tables.IMAGES),
        tables.from_rows(found, tables.ANNOTATIONS),
        tables.from_rows(named, tables.CATEGORIES),
    )
    return Part(f"{split}.json", content, given, given)


TRAIN = part("train", {1: "a.jpg", 2: "c.jpg"}, [(1, 1, "dog"), (2, 2, "cat")], {"cat": 1, "dog": 2}, False)
VAL = part("val", {1: "b.jpg", 2: "c.jpg"}, [(1, 2, "dog"), (2, 2, "ant")], {"ant": 1, "dog": 2}, False)
GIVEN = part("test", {40: "z.jpg"}, [(90, 40, "dog")], {"dog": 7, "fox": 9}, True)


def facts(content: Assembled) -> Any:
    return (
        rows(content.images, "image_id", "file_name", "split"),
        rows(content.annotations, "annotation_id", "image_id", "category_id", "category"),
        rows(content.categories, "category_id", "name"),
    )


def test_counted_ids_are_counted_anew_over_all_splits() -> None:
    images, annotations, categories = facts(merge([TRAIN, VAL]))
    assert images == [(1, "a.jpg", "train"), (2, "b.jpg", "val"), (3, "c.jpg", "train"), (4, "c.jpg", "val")]
    assert annotations == [(1, 1, 3, "dog"), (2, 3, 2, "cat"), (3, 4, 3, "dog"), (4, 4, 1, "ant")]
    assert categories == [(1, "ant"), (2, "cat"), (3, "dog")]


def test_annotations_follow_images_that_were_not_in_order() -> None:
    turned = part("more", {1: "y.jpg", 2: "x.jpg"}, [(1, 1, "cat"), (2, 2, "dog")], {"cat": 1, "dog": 2}, False)
    images, annotations, _ = facts(merge([turned]))
    assert images == [(1, "x.jpg", "more"), (2, "y.jpg", "more")]
    assert annotations == [(1, 1, 2, "dog"), (2, 2, 1, "cat")]


def test_given_ids_stay_and_the_others_follow() -> None:
    images, annotations, categories = facts(merge([TRAIN, GIVEN]))
    assert images == [(40, "z.jpg", "test"), (41, "a.jpg", "train"), (42, "c.jpg", "train")]
    assert annotations == [(90, 40, 7, "dog"), (91, 41, 7, "dog"), (92, 42, 10, "cat")]
    assert categories == [(7, "dog"), (9, "fox"), (10, "cat")]


def test_the_order_of_the_ingests_does_not_matter() -> None:
    parts = [TRAIN, VAL, GIVEN, part(None, {3: "a.jpg"}, [(5, 3, "cat")], {"cat": 1}, False)]
    results = [merge(order) for order in permutations(parts)]
    assert {tables.digest(r.images, r.annotations, r.categories) for r in results} == {
        tables.digest(results[0].images, results[0].annotations, results[0].categories)
    }


def test_merging_what_was_taken_apart_gives_the_same() -> None:
    whole = merge([TRAIN, VAL])
    apart = [Part("x", of_splits(whole, [split]), False, False) for split in ("val", "train")]
    assert facts(merge(apart)) == facts(whole)
    assert of_splits(whole, [None]).images.num_rows == 0


def test_ids_that_clash_are_refused() -> None:
    same_image = part("more", {40: "y.jpg"}, [], {"dog": 7}, True)
    same_annotation = part("more", {41: "y.jpg"}, [(90, 41, "dog")], {"dog": 7}, True)
    with pytest.raises(
        DatasetError,
        match=r"1 image ids are both in test\.json and in more\.json, such as \[40\]: .*another dataset name",
    ):
        merge([GIVEN, same_image])
    with pytest.raises(
        DatasetError, match=r"1 annotation ids are both in test\.json and in more\.json, such as \[90\]"
    ):
        merge([GIVEN, same_annotation])


def test_categories_that_do_not_agree_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"category 7 is 'cat' in more\.json, 'dog' in another split"):
        merge([GIVEN, part("more", {1: "y.jpg"}, [], {"cat": 7}, True)])
    with pytest.raises(DatasetError, match=r"category 'dog' is 8 in more\.json, 7 in another split"):
        merge([GIVEN, part("more", {1: "y.jpg"}, [], {"dog": 8}, True)])
    more = merge([GIVEN, part("more", {1: "y.jpg"}, [], {"dog": 7, "emu": 2}, True)])
    assert rows(more.categories, "category_id", "name") == [(2, "emu"), (7, "dog"), (9, "fox")]
