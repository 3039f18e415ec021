"""Counting problems, and the flags of rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from shardlens.pipeline.annotations.problems import Flags, Problem, Problems

LISTS = pa.list_(pa.string())


def column(*flags: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([*flags], LISTS)])


def test_all_are_counted_and_the_first_five_told() -> None:
    problems = Problems()
    problems.add("degenerate-box", 7, (f"box {i}" for i in range(7)))
    problems.one("missing-image", "a.jpg")
    missing, boxes = problems.found()
    assert missing == Problem("missing-image", 1, ("a.jpg",))
    assert (boxes.count, boxes.examples[-1], len(boxes.examples)) == (7, "box 4", 5)
    assert str(boxes).endswith("box 4\n    ... and 2 more")


def test_an_example_cannot_write_over_the_terminal() -> None:
    problems = Problems()
    problems.one("missing-image", "a\x1b[2J\nb.jpg")
    assert not {"\x1b", "\nb"} & set(str(problems.found()[0]).split("missing-image", 1)[1])
    assert str(problems.found()[0]).count("\n") == 1


def test_no_example_is_made_that_is_not_kept() -> None:
    problems = Problems()
    made: list[int] = []
    problems.add("bad-mask", 1000, (str(made.append(i)) for i in range(1000)))
    assert len(made) == 5


def test_a_kind_that_nobody_explains_is_refused() -> None:
    with pytest.raises(ValueError, match="problem kind 'odd': expected one of outside-root"):
        Problems().one("odd", "x")


def test_flags_are_merged_with_those_already_there() -> None:
    flags = Flags(column(["bad-mask"], [], ["degenerate-box"]))
    flags.mark("degenerate-box", np.array([True, False, True]))
    flags.mark("missing-image", np.array([1]))
    assert flags.column().to_pylist() == [["degenerate-box", "bad-mask"], ["missing-image"], ["degenerate-box"]]
    assert flags.rows("degenerate-box").tolist() == [0, 2]
    assert flags.rows("size-mismatch").tolist() == []


def test_flags_of_chunks_slices_and_nothing() -> None:
    whole = pa.chunked_array([pa.array([["bad-mask"], []], LISTS).slice(1), pa.array([["missing-image"]], LISTS)])
    assert Flags(whole).column().to_pylist() == [[], ["missing-image"]]
    assert Flags(pa.chunked_array([], LISTS)).column().to_pylist() == []


def test_report_flags_counts_and_describes() -> None:
    flags, problems = Flags(column([], [], [])), Problems()
    flags.report("size-mismatch", np.array([False, True, True]), problems, lambda row: f"row {row}")
    assert flags.column().to_pylist() == [[], ["size-mismatch"], ["size-mismatch"]]
    assert problems.found()[0].examples == ("row 1", "row 2")
