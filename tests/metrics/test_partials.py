from __future__ import annotations

import numpy as np
import pytest

from shardlens.pipeline.metrics import partials

ARRAYS = {"bbox": {"state": np.frombuffer(b"abc", dtype=np.uint8), "found": np.array(3)}, "semantic": {"n": np.eye(2)}}


def test_partials_come_back_by_task_and_name():
    back = partials.unpack(partials.pack(ARRAYS))
    assert {task: sorted(arrays) for task, arrays in back.items()} == {"bbox": ["found", "state"], "semantic": ["n"]}
    assert back["bbox"]["state"].tobytes() == b"abc"
    assert int(back["bbox"]["found"]) == 3
    assert (back["semantic"]["n"] == np.eye(2)).all()


def test_the_same_arrays_give_the_same_bytes():
    assert partials.pack(ARRAYS) == partials.pack(dict(reversed(ARRAYS.items())))


def test_damaged_or_foreign_bytes_are_refused():
    whole = partials.pack(ARRAYS)
    damaged = [whole[:-30], b"", whole[32:], *(flipped(whole, place) for place in range(len(whole)))]
    for data in damaged:
        with pytest.raises(ValueError, match=f"{len(data)} bytes that are not a partial, or a damaged one"):
            partials.unpack(data)


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def test_arrays_that_would_run_code_are_refused():
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        partials.unpack(partials.pack({"bbox": {"state": np.array([{"a": 1}], dtype=object)}}))
