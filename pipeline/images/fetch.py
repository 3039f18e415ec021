"""Images of a shard, fetched many at once and decoded by threads, in their order; a failing one does not affect the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from shardlens.pipeline import storage
from shardlens.pipeline.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ImageError,
    StorageError,
    StorageUnavailableError,
)
from shardlens.pipeline.executors.base import Clock
from shardlens.pipeline.images.decode import Decoded, Enough, Postponed, decode, postponed
from shardlens.pipeline.images.file_warnings import FILE_WARNINGS
from shardlens.pipeline.images.policy import DecodePolicy
from shardlens.pipeline.images.shards import Failure, ImageRef

FETCH_AT_ONCE = 16
PIXELS_AT_ONCE = 256_000_000
"""Pixels of the images whose bytes are fetched at once, a single larger image aside."""
PIXELS_IN_FLIGHT = 64_000_000
"""Decoded pixels (3 bytes each) that may wait for the model, a single larger image aside."""


Loaded = tuple[ImageRef, Decoded | Postponed | Failure]


@dataclass(frozen=True)
class Decoding:
    """How fetched images are decoded, and where the time of both is counted."""

    policy: DecodePolicy
    enough: Enough | None = None
    """At which size the model looks at them, where they may be decoded at a reduced scale."""
    postpone: bool = False
    """Leave the decoding of images too large to wait next to others to the consumer, so that the pixels of one such
    image are held at a time."""
    clock: Clock = field(default_factory=Clock)


def load(images: Sequence[ImageRef], decoding: Decoding, decoders: int = 2) -> Iterator[Loaded]:
    """Fetch and decode `images`, in order, the next ones while the last are used.

    Raises:
        StorageUnavailableError: the store failed after every retry; that is no fault of an image.
    """
    chunks = list(_chunks(images))
    with ThreadPoolExecutor(1, "fetch") as fetcher, ThreadPoolExecutor(decoders, "decode") as pool:
        fetched = deque(fetcher.submit(_fetch, chunk, decoding.clock) for chunk in chunks[:1])
        for number, chunk in enumerate(chunks):
            if number + 1 < len(chunks):
                fetched.append(fetcher.submit(_fetch, chunks[number + 1], decoding.clock))
            yield from _decode_in_order(pool, chunk, fetched.popleft().result(), decoding)


def _chunks(images: Sequence[ImageRef]) -> Iterator[list[ImageRef]]:
    """Images to fetch at once, few of them where they are large."""
    chunk: list[ImageRef] = []
    for image in images:
        if len(chunk) == FETCH_AT_ONCE or sum(map(_pixels, [*chunk, image])) > PIXELS_AT_ONCE:
            yield chunk
            chunk = []
        chunk.append(image)
    if chunk:
        yield chunk


def _fetch(chunk: Sequence[ImageRef], clock: Clock) -> list[bytes | StorageError]:
    with clock.spent("fetch"):
        data = storage.read_many([(image.uri, image.offset, image.length) for image in chunk])
    if len(data) > 1 and all(isinstance(one, AccessDeniedError | BucketNotFoundError) for one in data):
        assert isinstance(data[0], StorageError)
        raise data[0]  # no fault of an image: the credentials or the bucket are wrong for all of them
    return data


def _decode_in_order(
    pool: ThreadPoolExecutor,
    chunk: Sequence[ImageRef],
    data: list[bytes | StorageError],
    decoding: Decoding,
) -> Iterator[Loaded]:
    """Decode ahead of the consumer until the pixels in flight reach their bound."""
    waiting: deque[tuple[ImageRef, Future[Decoded | Postponed | Failure]]] = deque()
    pixels = 0
    for position, image in enumerate(chunk):
        cost = _pixels(image)
        while waiting and pixels + cost > PIXELS_IN_FLIGHT:
            first, future = waiting.popleft()
            pixels -= _pixels(first)
            yield first, future.result()
        waiting.append((image, pool.submit(_decode, image, data[position], decoding)))
        data[position] = b""
        pixels += cost
    for image, future in waiting:
        yield image, future.result()


def _pixels(image: ImageRef) -> int:
    return (image.width or 0) * (image.height or 0)


def _decode(image: ImageRef, data: bytes | StorageError, decoding: Decoding) -> Decoded | Postponed | Failure:
    if isinstance(data, StorageUnavailableError):
        raise data
    if isinstance(data, StorageError):
        return Failure(image.image_id, "fetch", type(data).__name__, str(data))
    if image.length is not None and len(data) != image.length:
        return Failure(
            image.image_id, "fetch", "ImageError", f"{image.uri}: {len(data)} of {image.length} bytes at {image.offset}"
        )
    later = decoding.postpone and _pixels(image) > PIXELS_IN_FLIGHT
    try:
        with decoding.clock.spent("decode"), FILE_WARNINGS.of(image.file_name):
            return postponed(data, decoding.policy) if later else decode(data, decoding.policy, decoding.enough)
    except ImageError as error:
        return Failure(image.image_id, "decode", "ImageError", f"{image.file_name}: {error}")
