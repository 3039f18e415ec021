"""The JSON reader against the standard library's, and its errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardlens.pipeline.annotations.json_stream import items, text_of
from shardlens.pipeline.errors import DatasetError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def whole(text: str) -> dict[str, Any]:
    """Put the items together again."""
    found: dict[str, Any] = {}
    for key, index, item in items(text, "x.json"):
        if index is None:
            found[key] = item
        else:
            found.setdefault(key, []).append(item)
    return found


@given(st.dictionaries(st.text(), VALUES, max_size=4), st.sampled_from([None, 1]), st.booleans())
def test_items_put_together_are_the_document(document: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    assert whole(json.dumps(document, indent=indent, ensure_ascii=ascii_only)) == document


def test_items_of_lists_carry_their_index() -> None:
    assert list(items('{"a": [5, [6]], "b": {"c": 1}, "d": []}', "x.json")) == [
        ("a", 0, 5),
        ("a", 1, [6]),
        ("b", None, {"c": 1}),
        ("d", None, []),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [{"id": 1},\n  {"id": }]}', r"f\.json, line 2, column 10: not JSON \(Expecting value\)"),
        ('{"images": [{"id": 1}', r"line 1, column 22: not JSON \(expected , or \]\); the file has 21 characters"),
        ('{"images": [],}', r"line 1, column 15: not JSON \(expected a key in double quotes"),
        ('{"images" []}', r"line 1, column 11: not JSON \(expected :"),
        ('{"a": 1} {"a": 2}', r"line 1, column 10: not JSON \(more text after the end"),
        ("[1, 2]", r"f\.json holds a JSON list, expected an object with images, annotations and categories"),
        ("images: 5", r"f\.json, line 1, column 1: not JSON"),
    ],
)
def test_damage_is_told_with_its_place(text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        list(items(text, "f.json"))


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"f\.json is not JSON: byte 1 is 0x8b, expected UTF-8"):
        text_of(b"\x1f\x8b\x08\x00", "f.json")
    with pytest.raises(DatasetError, match=r"f\.json is empty"):
        text_of(b" \n", "f.json")
    assert text_of(b"\xef\xbb\xbf{}", "f.json") == "{}"
