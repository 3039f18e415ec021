"""Merging the splits of several ingests."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest

from shardlens.pipeline.annotations.assembly import Assembled
from shardlens.pipeline.annotations.source import annotation_row
from shardlens.pipeline.annotations.splits import Part, merge, of_splits, renumbered
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
VAL = part("val", {3: "b.jpg", 4: "c.jpg"}, [(1, 4, "dog"), (2, 4, "ant")], {"ant": 1, "dog": 2}, False)
GIVEN = part("test", {40: "z.jpg"}, [(90, 40, "dog")], {"dog": 7, "fox": 9}, True)


def facts(content: Assembled) -> Any:
    return (
        rows(content.images, "image_id", "file_name", "split"),
        rows(content.annotations, "annotation_id", "image_id", "category_id", "category"),
        rows(content.categories, "category_id", "name"),
    )


def test_annotations_of_formats_without_ids_are_counted_by_their_images() -> None:
    images, annotations, categories = facts(merge([VAL, TRAIN]))
    assert images == [(1, "a.jpg", "train"), (2, "c.jpg", "train"), (3, "b.jpg", "val"), (4, "c.jpg", "val")]
    assert annotations == [(1, 1, 3, "dog"), (2, 2, 2, "cat"), (3, 4, 3, "dog"), (4, 4, 1, "ant")]
    assert categories == [(1, "ant"), (2, "cat"), (3, "dog")]


def test_given_ids_stay_and_the_others_follow() -> None:
    images, annotations, categories = facts(merge([TRAIN], GIVEN))
    assert images == [(1, "a.jpg", "train"), (2, "c.jpg", "train"), (40, "z.jpg", "test")]
    assert annotations == [(91, 1, 7, "dog"), (92, 2, 10, "cat"), (90, 40, 7, "dog")]
    assert categories == [(7, "dog"), (9, "fox"), (10, "cat")]


def test_the_order_of_the_parts_does_not_matter() -> None:
    parts = [TRAIN, VAL, GIVEN, part(None, {5: "a.jpg"}, [(5, 5, "cat")], {"cat": 1}, False)]
    results = [merge(order) for order in permutations(parts)]
    assert {tables.digest(r.images, r.annotations, r.categories) for r in results} == {
        tables.digest(results[0].images, results[0].annotations, results[0].categories)
    }


def test_merging_what_was_taken_apart_gives_the_same() -> None:
    whole = merge([TRAIN, VAL])
    apart = [Part("x", of_splits(whole, [split]), False, False) for split in ("val", "train")]
    assert facts(merge(apart)) == facts(whole)
    assert of_splits(whole, [None]).images.num_rows == 0


def test_new_ids_of_images_reach_their_annotations() -> None:
    content = renumbered(VAL.content, np.array([9, 7]))
    assert rows(content.images, "image_id", "file_name") == [(9, "b.jpg"), (7, "c.jpg")]
    assert rows(content.annotations, "annotation_id", "image_id") == [(1, 7), (2, 7)]


def test_clashing_annotations_get_ids_of_their_own_that_they_keep() -> None:
    more = part("more", {41: "y.jpg"}, [(90, 41, "dog"), (95, 41, "dog")], {"dog": 7}, True)
    merged = merge([GIVEN], more)
    assert rows(merged.annotations, "annotation_id", "image_id", "source_id") == [
        (90, 40, None),
        (95, 41, None),
        (96, 41, "90"),
    ]
    third = part("third", {50: "w.jpg"}, [(90, 50, "dog"), (97, 50, "dog")], {"dog": 7}, True)
    grown = merge([Part("kept", merged, True, True)], third)
    assert rows(grown.annotations, "annotation_id", "source_id")[-2:] == [(97, None), (98, "90")]
    others = [Part("kept", of_splits(grown, [split]), True, True) for split in ("test", "third")]
    assert facts(merge(others, more, grown.annotations)) == facts(grown)


def test_categories_that_do_not_agree_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"category 7 is 'cat' in more\.json, 'dog' in another split"):
        merge([GIVEN, part("more", {1: "y.jpg"}, [], {"cat": 7}, True)])
    with pytest.raises(DatasetError, match=r"category 'dog' is 8 in more\.json, 7 in another split"):
        merge([GIVEN, part("more", {1: "y.jpg"}, [], {"dog": 8}, True)])
    more = merge([GIVEN, part("more", {1: "y.jpg"}, [], {"dog": 7, "emu": 2}, True)])
    assert rows(more.categories, "category_id", "name") == [(2, "emu"), (7, "dog"), (9, "fox")]
