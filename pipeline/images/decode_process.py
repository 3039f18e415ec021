"""Decoding in a process of its own, which can be ended, where an image may take longer than its time limit.

A thread cannot be ended. So the header decides first: what is sure to be done in time, as most images are, is decoded
in a thread at no cost; the rest, by the slowest rate that its format is known for, in a process (`decode_worker`).
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from shardlens.pipeline.errors import ImageError
from shardlens.pipeline.images import jpeg
from shardlens.pipeline.images.policy import DecodePolicy

WORKER = "shardlens.pipeline.images.decode_worker"
PLAIN = {"PNG", "BMP", "PPM", "GIF", "WEBP", "TIFF"}
PLAIN_TIFF = {"raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate"}
"""Compressions of TIFF whose time is that of their pixels."""
JPEG_RATE, PLAIN_RATE, OTHER_RATE = 20e6, 5e6, 0.2e6
"""Pixels a second at worst: of a JPEG's scan, of simple formats, of all others (JPEG 2000, AVIF)."""
BYTES_RATE = 5e6
"""Compressed bytes a second at worst."""
MOST_SCANS = 100


class ImageTimeoutError(ImageError):
    """An image that was not decoded within its time limit."""


def slowest(image: Image.Image, data: bytes) -> float:
    """Seconds that an image takes to decode at worst, by its header."""
    pixels = image.width * image.height
    if image.format in {"JPEG", "MPO"}:
        scans = jpeg.scans(data, MOST_SCANS) if image.info.get("progressive") else 1
        rate = JPEG_RATE / max(1, scans)
    else:
        plain = image.format in PLAIN
        if isinstance(image, TiffImageFile):
            plain = image.info.get("compression") in PLAIN_TIFF
        rate = PLAIN_RATE if plain else OTHER_RATE
    return pixels / rate + len(data) / BYTES_RATE


def decode_in_process(data: bytes, policy: DecodePolicy, target: tuple[int, int] | None) -> tuple[Any, int, int, int]:
    """Decode an image in a process that is ended after the policy's time limit.

    Args:
        target: (height, width) to which the model resizes the upright image, where it may be decoded at a reduced scale.

    Returns:
        The fields of a `Decoded`: pixels, orientation, height, width.

    Raises:
        ImageError: it is damaged, took longer than the limit, or ended the process.
    """
    paths = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(
        [sys.executable, "-m", WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env={**os.environ, "PYTHONPATH": paths},
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)  # it has started: its imports do not count
        try:
            answer, _ = process.communicate(pickle.dumps((data, policy, target)), timeout=policy.image_timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise ImageTimeoutError(
                f"not decoded within {policy.image_timeout:g} s: raise --image-timeout if it is genuine"
            ) from None
        finally:
            process.kill()
    if not answer:
        raise ImageError(f"decoding it ended the process that did so (exit status {process.returncode})")
    outcome = pickle.loads(answer)
    if isinstance(outcome, str):
        raise ImageError(outcome)
    return tuple(outcome)
