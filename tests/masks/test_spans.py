"""Connected parts and holes on spans, against scipy on pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from shardlens.pipeline import masks
from shardlens.pipeline.masks.spans import Canvas, Spans, filled, parts, to_rle

CORNERS = np.ones((3, 3))
sides = st.integers(1, 14)


def spans_of(mask: np.ndarray) -> Spans:
    """Spans of the ones, each as sure as 1/2."""
    return all_spans(mask.astype(np.uint8)).get(1) or Spans(*np.zeros((3, 0), np.int64), np.zeros(0), *mask.shape)


def all_spans(classes: np.ndarray) -> dict[int, Spans]:
    canvas = Canvas(*classes.shape)
    canvas.add(classes, np.full(classes.shape, 0.5, np.float32))
    return canvas.spans()


def pixels(spans: Spans) -> np.ndarray:
    return masks.decode(to_rle(spans)).astype(bool)


def painted(spans: Spans, values: np.ndarray) -> np.ndarray:
    """(H, W) with each span in its value."""
    found = np.full(spans.height * spans.width, -1)
    for start, end, value in zip(spans.starts, spans.ends, values, strict=True):
        found[start:end] = value
    return found.reshape(spans.width, spans.height).T


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), sides, sides, st.booleans())
def test_parts_are_those_of_scipy(seed: int, height: int, width: int, diagonal: bool) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < rng.choice([0.1, 0.5, 0.8, 1.0])
    spans = spans_of(mask)
    expected, count = ndimage.label(mask, CORNERS if diagonal else None)
    number = parts(spans, diagonal)
    found = painted(spans, number)
    assert len(np.unique(number)) == count
    assert ((found >= 0) == mask).all()
    assert len(set(zip(expected[mask].tolist(), found[mask].tolist(), strict=True))) == count
    firsts = [np.flatnonzero(number == part)[0] for part in range(count)]
    assert firsts == sorted(firsts)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), sides, sides)
def test_holes_are_those_of_scipy(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < rng.choice([0.5, 0.8, 1.0])
    if not mask.any():
        return
    found = filled(spans_of(mask))
    assert (pixels(found) == ndimage.binary_fill_holes(mask)).all()
    assert found.own.sum() == mask.sum()
    assert found.score == 0.5


def test_what_others_have_is_not_filled() -> None:
    classes = np.ones((7, 7), np.uint8)
    classes[2:5, 2:5] = 0
    classes[3, 3] = 2
    found = all_spans(classes)
    ring = pixels(filled(found[1], [found[2]]))
    assert not ring[3, 3]
    assert ring.sum() == 48


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 20))
def test_blocks_in_any_order_give_what_the_whole_gives(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, (height, width)).astype(np.uint8)
    probability = rng.random((height, width)).astype(np.float32)
    whole, pieces = Canvas(height, width), Canvas(height, width)
    whole.add(classes, probability)
    blocks = [(y, x) for y in range(0, height, 6) for x in range(0, width, 5)]
    for i in rng.permutation(len(blocks)):
        y, x = blocks[i]
        pieces.add(classes[y : y + 6, x : x + 5], probability[y : y + 6, x : x + 5], y, x)
    expected, found = whole.spans(), pieces.spans()
    assert expected.keys() == found.keys() == set(np.unique(classes)) - {0}
    for label, spans in expected.items():
        assert to_rle(spans) == to_rle(found[label]) == masks.encode(classes == label)
        assert spans.area == spans.own.sum() == (classes == label).sum()
        assert spans.score == pytest.approx(probability[classes == label].mean())
        for name in ("starts", "ends", "own"):
            assert (getattr(spans, name) == getattr(found[label], name)).all()


def test_a_canvas_of_background_is_empty() -> None:
    assert all_spans(np.zeros((3, 4), np.uint8)) == {}
    assert Canvas(3, 4).spans() == {}
