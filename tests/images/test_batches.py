"""Batches: one padded shape each, the same for the same shard, bounded pixels."""

from __future__ import annotations

import numpy as np
import pytest

from shardlens.models.spec import InputRule
from shardlens.pipeline.images import batches as module
from shardlens.pipeline.images.batches import Batch, batches, blown_up
from shardlens.pipeline.images.decode import Decoded
from shardlens.pipeline.images.fetch import Loaded
from shardlens.pipeline.images.shards import Failure, ImageRef


def loaded(*sizes: tuple[int, int]) -> list[Loaded]:
    return [
        (ImageRef(i, f"/{i}", None, None, w, h, f"{i}"), Decoded(np.zeros((h, w, 3), np.uint8), 1, h, w))
        for i, (h, w) in enumerate(sizes)
    ]


def ids(found: list[Batch | Failure]) -> list[list[int]]:
    return [[image.image_id for image in batch.images] for batch in found if isinstance(batch, Batch)]


def test_images_share_a_batch_only_with_their_padded_shape() -> None:
    rule = InputRule(multiple=32)
    found = list(batches(loaded((30, 30), (60, 60), (20, 31), (64, 33), (32, 32)), rule, 8))
    assert ids(found) == [[0, 2, 4], [1, 3]]
    assert [b.shape for b in found if isinstance(b, Batch)] == [(32, 32), (64, 64)]


def test_full_batches_go_at_once_and_the_rest_at_the_end() -> None:
    assert ids(list(batches(loaded(*[(8, 8)] * 7), InputRule(), 3))) == [[0, 1, 2], [3, 4, 5], [6]]


def test_failures_pass_through() -> None:
    image = loaded((8, 8))[0][0]
    failure = Failure(5, "decode", "ImageError", "no")
    assert list(batches([(image, failure)], InputRule(), 2)) == [failure]


def test_many_waiting_pixels_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIXELS_HELD", 300)
    found = list(batches(loaded((10, 10), (10, 11), (10, 10), (10, 12)), InputRule(), 8))
    assert ids(found) == [[0, 2], [1], [3]]


def test_an_image_that_its_rule_blows_up_is_left_out() -> None:
    rule = InputRule(min_size=520)
    images = loaded((1, 2000), (100, 2000))
    failure, batch = batches(images, rule, 8)
    assert isinstance(failure, Failure)
    assert (failure.image_id, failure.stage) == (0, "predict")
    assert failure.message == "2000x1 pixels become 1040000x520 for the network: too narrow an image for its input size"
    assert isinstance(batch, Batch)
    assert batch.shape == (520, 10400)


def test_a_narrow_image_that_goes_in_tiles_is_taken() -> None:
    rule = InputRule(min_size=520)
    (failure,) = batches(loaded((100, 50_000)), rule, 8)
    assert isinstance(failure, Failure)
    (batch,) = batches(loaded((100, 50_000)), rule, 8, tile=512)
    assert isinstance(batch, Batch)
    (failure,) = batches(loaded((1, 50_000)), rule, 8, tile=512)
    assert isinstance(failure, Failure)
    assert failure.message.startswith("512x1 pixels become 266240x520")


def test_an_image_whose_shorter_side_would_vanish_is_refused_before_the_network() -> None:
    rule = InputRule(min_size=800, max_size=1333)
    assert (
        blown_up(1, 5000, rule) == "5000x1 pixels become 1333x0 for the network: too narrow an image for its input size"
    )
    assert (
        blown_up(5000, 3, rule) == "3x5000 pixels become 0x1333 for the network: too narrow an image for its input size"
    )
    assert blown_up(4, 5000, rule) is None
    assert blown_up(1, 5000, InputRule(fixed=(320, 320))) is None
