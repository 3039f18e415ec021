"""A Darknet detector from the sections of its .cfg, behind torchvision's detection contract."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardlens.models.darknet import weights_file
from shardlens.models.darknet.cfg import Section, render
from shardlens.models.darknet.heads import HEADS, Decoder, Level, Selection, read_level
from shardlens.models.darknet.layers import Built, Shape, build
from shardlens.models.darknet.loss import DarknetLoss, read_truth
from shardlens.models.darknet.terms import read_terms
from shardlens.models.darknet.tree import WordTree
from shardlens.models.errors import ModelError
from shardlens.models.spec import InputRule

_SIDE = 16384  # longest input side that is taken for meant
_PRIOR = 0.01
"""Objectness of a new network: most anchors are empty, and learning that first would cost the others dearly."""


class DarknetDetector(nn.Module):
    """Any network of the supported layers that ends in [yolo] layers or a [region] layer.

    `layers[i]` is the .cfg's layer i, `size` the (height, width) that every image is stretched to, `cfg` the text that
    Darknet would read, `tree` what its `tree=` and `map=` name. `burn_in` is for [region] networks, see
    `shardlens.models.darknet.terms.Terms`.
    """

    def __init__(
        self, sections: Sequence[Section], selection: Selection, burn_in: int = 0, tree: WordTree | None = None
    ) -> None:
        super().__init__()
        net, *rest = sections
        image = _image_shape(net)
        built = _assemble(rest, image)
        self.heads = [i for i, section in enumerate(rest) if section.kind in HEADS]
        levels = [_level(rest[i], i, built, image, tree) for i in self.heads]
        _check_levels(net, levels)
        self.cfg = render(sections)
        self.size = image.height, image.width
        self.labels, self.tree = levels[0].labels, tree
        self.selection = selection
        self.layers = nn.ModuleList(layer.module for layer in built)
        self.sources = [layer.sources for layer in built]
        self.done = _last_uses(self.sources)
        self.decoder = Decoder(levels, image.width, image.height)
        terms = [read_terms(rest[i], burn_in) for i in self.heads]
        self.loss = DarknetLoss(levels, image.width, image.height, terms)
        self.header = weights_file.Header()
        for index, level in zip(self.heads, levels, strict=True):
            _expect_little(self.layers[index - 1], len(level.anchors))

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> list[dict[str, Tensor]] | dict[str, Tensor]:
        """Detections of each image: boxes (N, 4) xyxy in its pixels, labels (N,) from 0, scores (N,), best first.

        In training the losses `box`, `objectness` and `classes`, of `targets` with boxes (N, 4) xyxy in pixels and labels
        (N,). `images` are (3, h, w) floats in [0, 1], of any sizes. Each is stretched to the network's size, bilinear
        without antialiasing, as Darknet does.
        """
        dtype = next(self.parameters()).dtype
        batch = torch.stack([self._stretched(image) for image in images]).to(dtype)
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        raw = self.raw(batch)
        if not self.training:
            return self.decoder.detect(raw, sizes, self.selection)
        if targets is None:
            raise ModelError(
                "a network in training needs targets (boxes and labels of each image); or call eval() first"
            )
        losses: dict[str, Tensor] = self.loss(self.decoder, self.decoder.rows(raw), read_truth(targets, sizes))
        return losses

    def raw(self, batch: Tensor) -> list[Tensor]:
        """What the last layers are given, in order: (N, anchors * (5 + classes), rows, columns) each.

        `batch` is (N, 3, H, W) in [0, 1] at the network's size.
        """
        kept = {-1: batch}
        for index, layer in enumerate(self.layers):
            kept[index] = layer(*(kept[source] for source in self.sources[index]))
            for source in self.done[index]:
                del kept[source]
        return [kept[head] for head in self.heads]

    def load_darknet(self, data: bytes, where: str = "the weights") -> None:
        """Take the weights from the bytes of a Darknet .weights file."""
        self.header = weights_file.read(self.layers, self._anchors(), data, where)

    def darknet_state(self, data: bytes, where: str = "the weights") -> dict[str, Tensor]:
        """The tensors of a .weights file by their names here, for transfer: of any number of classes, or a backbone's."""
        found = weights_file.state(self.layers, self._anchors(), data, where)
        return {f"layers.{name}": tensor for name, tensor in found.items()}

    def save_darknet(self) -> bytes:
        """The bytes of a Darknet .weights file; what `load_darknet` took comes back unchanged."""
        return weights_file.write(self.layers, self.header)

    def _anchors(self) -> dict[int, int]:
        """The anchors of each convolution before a head, by its layer."""
        return {head - 1: count for head, count in zip(self.heads, self.decoder.anchors, strict=True)}

    def _stretched(self, image: Tensor) -> Tensor:
        return F.interpolate(image[None], self.size, mode="bilinear", align_corners=False)[0]


def input_rule(model: nn.Module) -> InputRule:
    """Every image is stretched to the network's size."""
    assert isinstance(model, DarknetDetector)
    return InputRule(fixed=model.size)


def _image_shape(net: Section) -> Shape:
    channels, height, width = (net.integer(key, 0) for key in ("channels", "height", "width"))
    if channels != 3:
        raise net.error(f"channels={channels}, expected 3: images come as RGB", "channels")
    for key, side in (("height", height), ("width", width)):
        if not 1 <= side <= _SIDE:
            raise net.error(f"{key}={side}, expected 1 to {_SIDE}", key)
    return Shape(channels, height, width)


def _assemble(sections: list[Section], image: Shape) -> list[Built]:
    shapes, built = [image], []
    for index, section in enumerate(sections):
        layer = build(section, index, shapes)
        read = next((sections[i].kind for i in layer.sources if i >= 0 and sections[i].kind in HEADS), None)
        if read is not None:
            raise section.error(f"layer {index} reads a [{read}] layer, whose output is for detections only")
        built.append(layer)
        shapes.append(layer.shape)
    return built


def _level(section: Section, index: int, built: list[Built], image: Shape, tree: WordTree | None) -> Level:
    if index == 0:
        raise section.error("nothing comes before it; expected a convolutional layer")
    return read_level(section, built[index - 1].shape, image, tree)


def _check_levels(net: Section, levels: list[Level]) -> None:
    """Refuse a network without [yolo] or [region] layers, or with some that do not speak of the same classes."""
    kinds = {(level.classes, level.new_coords, level.softmax) for level in levels}
    if len(kinds) != 1:
        heads = (f"[{HEADS[soft]}] classes={classes} new_coords={int(new)}" for classes, new, soft in sorted(kinds))
        found = ", ".join(heads) or "none"
        raise net.error(f"the network's [yolo] and [region] layers are: {found}; expected at least one, and all alike")


def _last_uses(sources: list[tuple[int, ...]]) -> list[list[int]]:
    """Per layer the sources that nothing after it reads, so that their memory can be given back."""
    last = {source: index for index, read in enumerate(sources) for source in read}
    return [[source for source, at in last.items() if at == index] for index in range(len(sources))]


@torch.no_grad()
def _expect_little(layer: nn.Module, anchors: int) -> None:
    """Let the convolution before a head begin with boxes like the anchors, and an objectness of `_PRIOR`."""
    convolution = layer[0] if isinstance(layer, nn.Sequential) else None
    if not isinstance(convolution, nn.Conv2d) or convolution.bias is None:
        return
    nn.init.normal_(convolution.weight, std=0.01)
    nn.init.zeros_(convolution.bias)
    convolution.bias.view(anchors, -1)[:, 4] = math.log(_PRIOR / (1 - _PRIOR))
