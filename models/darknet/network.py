"""A Darknet detector from the text of its .cfg, behind torchvision's detection contract."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.darknet import weights_file
from models.darknet.cfg import Section, parse
from models.darknet.heads import Decoder, Level, Selection, read_level
from models.darknet.layers import Built, Shape, build
from models.errors import ModelError

_SIDE = 16384  # longest input side that is taken for meant


class DarknetDetector(nn.Module):
    """Any network of the supported layers that ends in [yolo] layers; for inference.

    `layers[i]` is the .cfg's layer i, `size` the (height, width) that every image is stretched to.
    """

    def __init__(self, cfg: str, selection: Selection) -> None:
        super().__init__()
        net, *sections = parse(cfg)
        image = _image_shape(net)
        built = _assemble(sections, image)
        levels = [_level(section, i, built) for i, section in enumerate(sections) if section.kind == "yolo"]
        _check_levels(net, levels)
        self.size = image.height, image.width
        self.classes = levels[0].classes
        self.selection = selection
        self.layers = nn.ModuleList(layer.module for layer in built)
        self.sources = [layer.sources for layer in built]
        self.heads = [i for i, section in enumerate(sections) if section.kind == "yolo"]
        self.done = _last_uses(self.sources)
        self.decoder = Decoder(levels, image.width, image.height)
        self.header = weights_file.Header()

    def forward(self, images: list[Tensor], targets: object = None) -> list[dict[str, Tensor]]:
        """Detections of each image: boxes (N, 4) xyxy in its pixels, labels (N,) from 0, scores (N,), best first.

        `images` are (3, h, w) floats in [0, 1], of any sizes. Each is stretched to the network's size, bilinear without
        antialiasing, as Darknet does.
        """
        if self.training:
            raise ModelError("a Darknet network is for inference: it has no losses; call eval() first")
        dtype = next(self.parameters()).dtype
        batch = torch.stack([self._stretched(image) for image in images]).to(dtype)
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        return self.decoder.detect(self.raw(batch), sizes, self.selection)

    def raw(self, batch: Tensor) -> list[Tensor]:
        """What the [yolo] layers are given, in order: (N, anchors * (5 + classes), rows, columns) each.

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
        self.header = weights_file.read(self.layers, data, where)

    def save_darknet(self) -> bytes:
        """The bytes of a Darknet .weights file; what `load_darknet` took comes back unchanged."""
        return weights_file.write(self.layers, self.header)

    def _stretched(self, image: Tensor) -> Tensor:
        return F.interpolate(image[None], self.size, mode="bilinear", align_corners=False)[0]


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
        if any(sections[source].kind == "yolo" for source in layer.sources if source >= 0):
            raise section.error(f"layer {index} reads a [yolo] layer, whose output is for detections only")
        built.append(layer)
        shapes.append(layer.shape)
    return built


def _level(section: Section, index: int, built: list[Built]) -> Level:
    if index == 0:
        raise section.error("nothing comes before it; expected a convolutional layer")
    return read_level(section, built[index - 1].shape)


def _check_levels(net: Section, levels: list[Level]) -> None:
    """Refuse a network without [yolo] layers, or with some that do not speak of the same classes."""
    kinds = {(level.classes, level.new_coords) for level in levels}
    if len(kinds) != 1:
        found = ", ".join(f"classes={classes} new_coords={int(new)}" for classes, new in sorted(kinds)) or "none"
        raise net.error(f"the network's [yolo] layers are: {found}; expected at least one, and all alike")


def _last_uses(sources: list[tuple[int, ...]]) -> list[list[int]]:
    """Per layer the sources that nothing after it reads, so that their memory can be given back."""
    last = {source: index for index, read in enumerate(sources) for source in read}
    return [[source for source, at in last.items() if at == index] for index in range(len(sources))]
