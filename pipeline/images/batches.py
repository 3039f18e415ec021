"""Batches of one padded shape: which images share a batch depends on the shard and the model alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from shardlens.models.spec import InputRule
from shardlens.pipeline.images.decode import Decoded, Postponed
from shardlens.pipeline.images.fetch import Loaded
from shardlens.pipeline.images.shards import Failure, ImageRef

LARGEST_INPUT = 100_000_000
"""Pixels that a network may be shown of an image that itself has less than a quarter of them: a narrow one whose shorter side
the input rule makes as long as any other's would fill the memory, and end the run."""
PIXELS_HELD = 128_000_000
"""Decoded pixels that may wait in batches not yet full."""


@dataclass
class Batch:
    """Images of one padded shape."""

    shape: tuple[int, int]
    images: list[ImageRef] = field(default_factory=list)
    decoded: list[Decoded | Postponed] = field(default_factory=list)

    @property
    def pixels(self) -> int:
        """Decoded pixels of all images in it."""
        return sum(image.held for image in self.decoded)


def batches(loaded: Iterable[Loaded], rule: InputRule, size: int, tile: int = 0) -> Iterator[Batch | Failure]:
    """Gather images by padded shape into batches of `size`; failures pass through. `tile` is the side of what the network
    sees at once, 0 = complete images.

    A batch is given when it is full; the fullest ones sooner when too many pixels wait, the rest at the end, by shape.
    """
    open_batches: dict[tuple[int, int], Batch] = {}
    held = 0
    for image, decoded in loaded:
        if isinstance(decoded, Failure):
            yield decoded
            continue
        high, wide = (min(side, tile or side) for side in decoded.shape)
        fault = blown_up(high, wide, rule)
        if fault is not None:
            yield Failure(image.image_id, "predict", "ImageError", fault)
            continue
        shape = rule.shape(*decoded.shape)
        batch = open_batches.setdefault(shape, Batch(shape))
        batch.images.append(image)
        batch.decoded.append(decoded)
        held += decoded.held
        while len(batch.images) == size or held > PIXELS_HELD:
            largest = batch if len(batch.images) == size else max(open_batches.values(), key=lambda b: b.pixels)
            held -= largest.pixels
            yield open_batches.pop(largest.shape)
            if largest is batch:
                break
    for shape in sorted(open_batches):
        yield open_batches[shape]


def blown_up(height: int, width: int, rule: InputRule) -> str | None:
    """Why an image is too narrow for the input rule, which makes it too large, or its shorter side vanish; else None."""
    if rule.max_size is not None and rule.min_size is not None and rule.fixed is None:
        scale = min(rule.min_size / min(height, width), rule.max_size / max(height, width))
        if scale * min(height, width) < 1:
            return (
                f"{width}x{height} pixels become {int(width * scale)}x{int(height * scale)} for the network: too narrow an "
                "image for its input size"
            )
    high, wide = rule.shape(height, width)
    if high * wide <= max(LARGEST_INPUT, 4 * height * width):
        return None
    return f"{width}x{height} pixels become {wide}x{high} for the network: too narrow an image for its input size"
