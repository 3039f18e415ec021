"""A loaded network as a function: decoded images of one padded shape go in, their rows come out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from shardlens.models.spec import InputRule, Task
from shardlens.models.tasks import MODEL_TASKS
from shardlens.pipeline.images.decode import Decoded, Postponed, Windowed, ensure_decoded, open_windows
from shardlens.pipeline.images.gpu_copy import Uploaded, UploadedImage, as_tensor, brought_back
from shardlens.pipeline.images.prefetch import Prefetch
from shardlens.pipeline.inference.finite import Watched, all_finite, watched
from shardlens.pipeline.inference.options import InferencePlan
from shardlens.pipeline.inference.postprocess import Decision, decide, decide_all
from shardlens.pipeline.inference.rows import ImageRows, from_canvas, from_detection, from_panoptic, from_semantic
from shardlens.pipeline.inference.semantic import Logits, Segmenter
from shardlens.pipeline.inference.tile_merging import merge, turned_block
from shardlens.pipeline.inference.tiles import STRIDE, Grid, Tile, blend
from shardlens.pipeline.masks.spans import Canvas
from shardlens.pipeline.networks.precision import autocast

Output = Mapping[str, Tensor] | Decision | ImageRows
"""What the device gave for an image; rows where the image was taken in tiles."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Forward:
    """A network in evaluation mode, and what is done around it; callers choose no_grad or inference_mode."""

    model: nn.Module
    task: Task
    rule: InputRule
    device: torch.device
    precision: str
    score_threshold: float | None = None
    """The lowest score kept; None keeps all that the network gives."""
    plan: InferencePlan = field(default_factory=InferencePlan)
    ensemble: tuple[tuple[nn.Module, InputRule], ...] = ()
    """Semantic networks that the first one's probabilities are averaged with."""
    batch_size: int = 8
    """Tiles that go through the network at once on a GPU; on a CPU, which one of them fills, they would only take memory."""
    background: bool = True
    """Whether label 0 of a semantic network is the background, which gives no rows."""
    compiled: bool = False
    """Whether parts of the network are compiled, which cannot be looked into."""

    def __post_init__(self) -> None:
        if not MODEL_TASKS[self.task].objects:
            _ = self.segmenter  # raises now if a network cannot take the views, not for every image

    def __call__(self, images: Sequence[Decoded | Postponed]) -> list[ImageRows]:
        """Predict images of one padded shape; see `outputs` for what it raises."""
        return self.rows(images, self.outputs(images))

    def outputs(self, images: Sequence[Decoded | Postponed]) -> list[Output]:
        """What the device has to do with images of one padded shape; those larger than a tile go one by one.

        Raises:
            FloatingPointError: the network gave something that is not a finite number.
            ImageError: a postponed image is damaged.
        """
        small = [i for i, image in enumerate(images) if not self._is_large(image)]
        at_once = self._in_one_piece([ensure_decoded(images[i]) for i in small]) if small else []
        outputs = dict(zip(small, at_once, strict=True))
        return [outputs[i] if i in outputs else self._in_tiles(open_windows(image)) for i, image in enumerate(images)]

    def rows(self, images: Sequence[Decoded | Postponed], outputs: Sequence[Output]) -> list[ImageRows]:
        """What is left to do without the device, for the results of `outputs`.

        Raises:
            FloatingPointError: the network gave something that is not a finite number.
            ImageError: a box or a mask is of no use.
        """
        return [
            output if isinstance(output, ImageRows) else self._rows(output, image)
            for image, output in zip(images, outputs, strict=True)
        ]

    def _rows(self, output: Mapping[str, Tensor] | Decision, image: Decoded | Postponed) -> ImageRows:
        if isinstance(output, tuple):
            return from_semantic(output, image, self.plan.postprocessing, self.background)
        if MODEL_TASKS[self.task].stuff:
            return from_panoptic(output, image)
        return from_detection(output, image, self.score_threshold)

    def _is_large(self, image: Decoded | Postponed) -> bool:
        return 0 < self.plan.tile < max(image.shape)

    def _in_one_piece(self, images: Sequence[Decoded]) -> list[Output]:
        tensors = [self._tensor(image.there if isinstance(image, UploadedImage) else image.pixels) for image in images]
        if not MODEL_TASKS[self.task].objects:
            return list(decide_all(self.segmenter(tensors), self.plan.postprocessing.thresholds))
        return list(brought_back(self._outputs(tensors)))

    def _in_tiles(self, image: Windowed) -> ImageRows:
        stride = math.lcm(STRIDE, self.rule.multiple, *(rule.multiple for _, rule in self.ensemble))
        grid = Grid(*image.shape, self.plan.tile, self.plan.overlap, stride)
        if MODEL_TASKS[self.task].objects:
            return merge(grid, list(self._tile_rows(grid, image)), image)
        canvas = Canvas(image.height, image.width, self.background)
        for window, probability in blend(grid, self._tile_maps(grid, image)):
            classes, chosen = decide(probability, self.plan.postprocessing.thresholds)
            canvas.add(*turned_block(window, classes, chosen, image))
        return from_canvas(canvas, self.plan.postprocessing)

    @property
    def _tiles_at_once(self) -> int:
        return 1 if self.device.type == "cpu" else self.batch_size

    def _tile_maps(self, grid: Grid, image: Windowed) -> Iterator[Tensor]:
        for crops in self._crops(grid, image):
            yield from self.segmenter([self._tensor(pixels) for _, pixels in crops])

    def _tile_rows(self, grid: Grid, image: Windowed) -> Iterator[tuple[Tile, ImageRows]]:
        """Rows in each tile's own frame, as if it were an image of its own."""
        for crops in self._crops(grid, image):
            outputs = brought_back(self._outputs([self._tensor(pixels) for _, pixels in crops]))
            for (tile, pixels), output in zip(crops, outputs, strict=True):
                yield tile, from_detection(output, Decoded(pixels, 1, *tile.shape), self.score_threshold)

    def _crops(self, grid: Grid, image: Windowed) -> Iterator[list[tuple[Tile, npt.NDArray[np.uint8]]]]:
        """Tiles by batches, with their pixels: the next ones are cut out, and decoded, while the network has the last."""
        cut = ([(tile, tile.crop(image)) for tile in tiles] for tiles in grid.batches(self._tiles_at_once))
        ahead = Prefetch(cut)
        try:
            yield from ahead
        finally:
            ahead.close()

    @cached_property
    def segmenter(self) -> Segmenter:
        """The semantic networks.

        Raises:
            ConfigError: views that a network cannot take.
        """
        networks = tuple((self._logits(model), rule) for model, rule in ((self.model, self.rule), *self.ensemble))
        return Segmenter(networks, self.plan.views)

    def _logits(self, model: nn.Module) -> Logits:
        def logits(batch: Tensor) -> Tensor:
            with self._autocast():
                out: Tensor = model(batch)["out"]
            return out

        return logits

    def _outputs(self, tensors: list[Tensor]) -> list[dict[str, Tensor]]:
        with self._autocast(), all_finite(self._watched):
            outputs: list[dict[str, Tensor]] = self.model(tensors)
        return outputs

    @cached_property
    def _watched(self) -> Watched:
        """Layers of a detector whose outputs must be finite: none in a network that is compiled as one."""
        return () if self.compiled and not hasattr(self.model, "backbone") else watched(self.model)

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self.precision)

    def _tensor(self, pixels: npt.NDArray[np.uint8] | Uploaded) -> Tensor:
        """CHW float in [0, 1]: the bytes travel to the device, the floats are made there."""
        there = pixels.ready() if isinstance(pixels, Uploaded) else as_tensor(pixels).to(self.device)
        return there.permute(2, 0, 1).float().div_(255)
