"""The time limit of an image: what may take longer is decoded in a process, and that is ended."""

from __future__ import annotations

import time

import numpy as np
import pytest

from shardlens.pipeline.errors import ConfigError, ImageError
from shardlens.pipeline.images import decode_process
from shardlens.pipeline.images.decode import decode, opened
from shardlens.pipeline.images.decode_process import slowest
from shardlens.pipeline.images.header import open_image
from shardlens.pipeline.images.policy import DecodePolicy
from tests.drawn_images import encode, picture, rotated_jpeg

SMALL = encode(picture(), "JPEG2000")


def test_common_images_are_sure_to_be_in_time() -> None:
    for form in ("JPEG", "PNG", "TIFF", "WEBP", "BMP"):
        data = encode(picture(1200, 1600), form)
        assert slowest(open_image(data), data) < DecodePolicy().image_timeout / 20


@pytest.mark.slow
def test_a_process_gives_the_same_pixels_and_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_process, "JPEG_RATE", 1.0)
    monkeypatch.setattr(decode_process, "OTHER_RATE", 1.0)
    turned = rotated_jpeg(picture(48, 64), 6)
    found, plain = decode(turned, DecodePolicy(image_timeout=50)), decode(turned, DecodePolicy(image_timeout=0))
    assert np.array_equal(found.pixels, plain.pixels)
    assert (found.orientation, found.height, found.width) == (6, 48, 64)
    auto = DecodePolicy(image_timeout=50, scale="auto")
    assert decode(turned, auto, lambda h, w: (h // 2, w // 2)).shape == (32, 24)
    windows = opened(SMALL, DecodePolicy(image_timeout=50))
    assert np.array_equal(windows.crop(3, 5, 20, 41), decode(SMALL, DecodePolicy(image_timeout=0)).pixels[3:20, 5:41])
    with pytest.raises(ImageError, match="JPEG of 64x48 is damaged or truncated"):
        decode(turned[:-300], DecodePolicy(image_timeout=50))


@pytest.mark.slow
def test_a_slow_image_is_ended() -> None:
    slow = encode(picture(3000, 4000), "JPEG2000")
    begun = time.perf_counter()
    with pytest.raises(ImageError, match=r"not decoded within 0\.05 s: raise --image-timeout if it is genuine"):
        decode(slow, DecodePolicy(image_timeout=0.05))
    assert time.perf_counter() - begun < 30


def test_a_limit_below_zero_is_none() -> None:
    with pytest.raises(ConfigError, match="image timeout -1: expected seconds, 0 or more"):
        DecodePolicy(image_timeout=-1)
