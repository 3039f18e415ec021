"""Labels to categories, by name."""

from __future__ import annotations

import pytest

from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.networks.labels import by_name, match, spelling
from shardlens.pipeline.warehouse import tables


def categories(*names: str) -> object:
    return tables.from_rows([{"category_id": 10 + i, "name": n} for i, n in enumerate(names)], tables.CATEGORIES)


def test_labels_find_their_category_whatever_the_spelling() -> None:
    found = match(
        ("__background__", "Aeroplane", "tvmonitor", "potted_plant"), categories("tv", "airplane", "potted plant")
    )
    assert found.ids == (None, 11, 10, 12)
    assert found.names == ("__background__", "airplane", "tv", "potted plant")
    assert found.unmatched == ()


def test_labels_without_a_category_keep_their_name() -> None:
    found = match(("cat", "unicorn", "N/A"), categories("cat"))
    assert found.ids == (10, None, None)
    assert found.unmatched == ("unicorn",)


def test_a_dataset_without_categories_takes_the_labels_numbers() -> None:
    assert match(("a", "b"), categories()).ids == (0, 1)


def test_no_match_at_all_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"none of the model's 2 labels \(x, y.*2 categories \(cat, dog.*--labels"):
        match(("x", "y"), categories("cat", "dog"))


@pytest.mark.parametrize("name", ["dining table", "diningtable", "Dining_Table"])
def test_spelling_is_one(name: str) -> None:
    assert spelling(name) == "dining table"


def ids(names: tuple[str, ...], *known: str) -> list[int | None]:
    return [hit and hit.category_id for hit in by_name(names, categories(*known), "label")]


def test_a_name_written_the_same_comes_first() -> None:
    assert ids(("couch", "sofa"), "sofa", "couch") == [11, 10]
    assert ids(("rbc", "RBC"), "RBC", "rbc") == [11, 10]
    assert ids(("sofa", "Couch"), "sofa", "couch") == [10, 11]


def test_a_category_that_is_named_exactly_is_no_other_names() -> None:
    assert ids(("RBC", "rbc"), "rbc") == [None, 10]
    assert ids(("sofa", "couch"), "couch", "dog") == [None, 10]


def test_a_name_that_could_be_two_categories_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"the label 'Rbc' could be any of the categories 10 'RBC', 11 'rbc': write one"
    ):
        ids(("Rbc",), "RBC", "rbc")
    with pytest.raises(
        ConfigError, match=r"'cat' could be any of the categories 10 'cat', 11 'cat': give the categories"
    ):
        ids(("cat", "dog"), "cat", "cat", "dog")
    with pytest.raises(ConfigError, match=r"the labels 'Cat' and 'CAT' could both be the category 10 'cat'"):
        ids(("Cat", "CAT"), "cat")


def test_labels_of_one_name_are_the_categories_of_that_name_in_order() -> None:
    assert ids(("cat", "dog", "cat"), "cat", "cat", "dog") == [10, 12, 11]
    assert ids(("crane", "crane"), "crane") == [10, 10]
