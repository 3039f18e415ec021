"""Labels to categories, by name."""

from __future__ import annotations

import pytest

from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.networks.labels import match, spelling
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
