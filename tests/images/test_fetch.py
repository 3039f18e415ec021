"""Fetching and decoding in order, with failures as values and bounded memory."""

from __future__ import annotations

import itertools
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardlens.pipeline.errors import StorageUnavailableError
from shardlens.pipeline.images.decode import Decoded
from shardlens.pipeline.images.fetch import Decoding, load
from shardlens.pipeline.images.policy import DecodePolicy
from shardlens.pipeline.images.prefetch import Prefetch
from shardlens.pipeline.images.shards import Failure, ImageRef
from tests import drawn_images


def stored(folder: Path, count: int) -> list[ImageRef]:
    refs = []
    for i in range(count):
        path = folder / f"{i}.png"
        path.write_bytes(drawn_images.encode(drawn_images.picture(24, 32, i), "PNG"))
        refs.append(ImageRef(i, str(path), None, None, 32, 24, path.name))
    return refs


def test_order_is_kept_and_each_image_is_its_own(tmp_path: Path) -> None:
    refs = stored(tmp_path, 40)
    found = list(load(refs, Decoding(DecodePolicy())))
    assert [ref.image_id for ref, _ in found] == list(range(40))
    assert all(
        isinstance(d, Decoded) and (d.pixels == drawn_images.picture(24, 32, r.image_id)).all() for r, d in found
    )


def test_failures_cost_no_neighbor(tmp_path: Path) -> None:
    refs = stored(tmp_path, 5)
    Path(refs[1].uri).write_bytes(b"junk")
    Path(refs[3].uri).unlink()
    found = {ref.image_id: value for ref, value in load(refs, Decoding(DecodePolicy()))}
    assert isinstance(found[1], Failure)
    assert (found[1].stage, found[1].error) == ("decode", "ImageError")
    assert isinstance(found[3], Failure)
    assert (found[3].stage, found[3].error) == ("fetch", "LocationNotFoundError")
    assert all(isinstance(found[i], Decoded) for i in (0, 2, 4))


def test_a_member_of_a_tar_is_read_by_its_range(tmp_path: Path) -> None:
    data = drawn_images.encode(drawn_images.picture(), "PNG")
    (tmp_path / "all.tar").write_bytes(b"x" * 512 + data + b"y" * 99)
    ref = ImageRef(7, str(tmp_path / "all.tar"), 512, len(data), 64, 48, "a.png")
    short = ImageRef(8, str(tmp_path / "all.tar"), 512, len(data) + 500, 64, 48, "b.png")
    (_, good), (_, bad) = load([ref, short], Decoding(DecodePolicy()))
    assert isinstance(good, Decoded)
    assert isinstance(bad, Failure)
    assert f"{len(data) + 99} of {len(data) + 500} bytes" in bad.message


def test_a_store_that_is_down_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    from shardlens.pipeline import storage
    from shardlens.pipeline.storage import objects

    monkeypatch.setattr(objects, "BACKOFF", storage.Backoff(attempts=1))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "k")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    storage.forget_connections()
    with pytest.raises(StorageUnavailableError, match="kept failing"):
        list(load([ImageRef(0, "s3://b/x.png", None, None, 1, 1, "x.png")], Decoding(DecodePolicy())))
    storage.forget_connections()


def test_prefetch_runs_ahead_but_not_far() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for i in itertools.count():
            made.append(i)
            yield i

    ahead = Prefetch(numbers(), depth=2)
    time.sleep(0.3)
    assert len(made) == 3  # two wait in the queue, one waits for room
    assert list(itertools.islice(ahead, 4)) == [0, 1, 2, 3]
    ahead.close()
    assert "prefetch" not in {thread.name for thread in threading.enumerate()}


def test_prefetch_carries_errors_over() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("from the thread")

    ahead = Prefetch(failing())
    with pytest.raises(ValueError, match="from the thread"):
        list(ahead)
    ahead.close()


def test_warnings_of_decoders_name_the_file(tmp_path: Path) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0" + b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"  # four of five entries are missing
    (tmp_path / "odd.jpg").write_bytes(drawn_images.encode(drawn_images.picture(), exif=exif))
    ref = ImageRef(0, str(tmp_path / "odd.jpg"), None, None, 64, 48, "folder/odd.jpg")
    before = warnings.showwarning
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        list(load([ref, ref], Decoding(DecodePolicy())))
    assert shown
    assert all(str(warning.message).startswith("folder/odd.jpg: ") for warning in shown)
    assert warnings.showwarning is before
