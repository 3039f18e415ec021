"""Darknet's layers as torch modules, each from its section of a .cfg."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shardlens.models.darknet.cfg import Section

NORM_EPS = 1e-6
"""What Darknet adds to a variance; torch's default is 1e-5."""

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "leaky": partial(nn.LeakyReLU, 0.1, inplace=True),
    "relu": partial(nn.ReLU, inplace=True),
    "relu6": partial(nn.ReLU6, inplace=True),
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": partial(nn.GELU, approximate="tanh"),
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "swish": partial(nn.SiLU, inplace=True),
    "mish": partial(nn.Mish, inplace=True),
}


class Shape(NamedTuple):
    """What a layer gives for one image."""

    channels: int
    height: int
    width: int


class Built(NamedTuple):
    """A layer, the indices of the layers it reads (-1 = the image), and what it gives."""

    module: nn.Module
    sources: tuple[int, ...]
    shape: Shape


class MaxPool(nn.Module):
    """Darknet's pooling: `padding` is the total, half of it (rounded down) left and above, the rest right and below.

    Padding never wins a maximum. With size 2 and stride 1 the size is kept, which torch's own pooling cannot do.
    """

    def __init__(self, size: int, strides: tuple[int, int], padding: int) -> None:
        super().__init__()
        self.size, self.strides, self.padding = size, strides, padding

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, (H + padding - size) // stride + 1, ...)."""
        (top, bottom), (left, right) = (self._sides(x.shape[2 + axis], self.strides[axis]) for axis in (0, 1))
        if top or bottom or left or right:
            x = F.pad(x, (left, right, top, bottom), value=float("-inf"))
        return F.max_pool2d(x, self.size, self.strides)

    def _sides(self, length: int, stride: int) -> tuple[int, int]:
        """Padding before and after one axis; after it only what a window reaches."""
        before = self.padding // 2
        windows = (length + self.padding - self.size) // stride
        return before, max(0, windows * stride + self.size - before - length)


class Route(nn.Module):
    """The sources' channels one after another; of `groups` equal parts of each source the one numbered `group`."""

    def __init__(self, groups: int, group: int) -> None:
        super().__init__()
        self.groups, self.group = groups, group

    def forward(self, *sources: Tensor) -> Tensor:
        """(N, C_i, H, W) each to (N, sum C_i / groups, H, W)."""
        parts = [source.chunk(self.groups, dim=1)[self.group] for source in sources]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class Shortcut(nn.Module):
    """The sum of its sources, activated."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, *sources: Tensor) -> Tensor:
        """Tensors of one shape to their sum."""
        total = sources[0]
        for source in sources[1:]:
            total = total + source
        activated: Tensor = self.activation(total)
        return activated


class Upsample(nn.Module):
    """Every pixel `stride` times in each direction, times `scale`."""

    def __init__(self, stride: int, scale: float) -> None:
        super().__init__()
        self.stride, self.scale = stride, scale

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H * stride, W * stride)."""
        larger = F.interpolate(x, scale_factor=self.stride, mode="nearest")
        return larger if self.scale == 1 else larger * self.scale


class Reorg(nn.Module):
    """Darknet's space to depth, which the published YOLOv2 weights were trained with.

    Each output position holds the `stride` x `stride` values of a patch, but of a tensor read with a wrong shape: the
    memory of C maps of H x W is taken for that of C / stride^2 maps of (H * stride) x (W * stride), and the result
    for that of C * stride^2 maps. So a pixel's neighbors come from other rows than in `torch.pixel_unshuffle`.
    https://github.com/pjreddie/darknet/blob/master/src/blas.c (reorg_cpu)
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C * stride^2, H / stride, W / stride)."""
        batch, channels, height, width = x.shape
        s = self.stride
        patches = x.reshape(batch, channels // s**2, height, s, width, s)
        return patches.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * s**2, height // s, width // s)


_MOST = 1 << 29
"""Weights of a convolution beyond which its section is taken for a slip."""


def _activation(section: Section, default: str) -> nn.Module:
    name = section.text("activation", default)
    if name not in ACTIVATIONS:
        raise section.error(f"activation={name} is not known; known: {', '.join(ACTIVATIONS)}", "activation")
    return ACTIVATIONS[name]()


def _strides(section: Section, default: int) -> tuple[int, int]:
    """(vertical, horizontal)."""
    stride = section.integer("stride", default, least=1)
    return section.integer("stride_y", stride, least=1), section.integer("stride_x", stride, least=1)


def _convolutional(section: Section, index: int, shapes: Sequence[Shape]) -> Built:
    section.refuse("binary", "xnor", "antialiasing", "assisted_excitation", "share_index", "rotate", "stretch", "sway")
    channels, height, width = shapes[-1]
    filters, size = section.integer("filters", 1, least=1), section.integer("size", 1, least=1)
    groups, strides = section.integer("groups", 1, least=1), _strides(section, 1)
    if channels % groups or filters % groups:
        raise section.error(f"groups={groups} divides not both {channels} channels and {filters} filters", "groups")
    dilation = section.integer("dilation", 1, least=1) if size > 1 else 1
    padding = dilation * (size // 2 if section.integer("pad", 0) else section.integer("padding", 0, least=0))
    normalized = section.integer("batch_normalize", 0) != 0
    weights = filters * (channels // groups) * size**2
    if max(weights, size, padding, dilation, *strides) > _MOST:
        raise section.error(
            f"filters={filters} size={size} on {channels} channels need {weights} weights, more than {_MOST}"
        )
    convolution = nn.Conv2d(channels, filters, size, strides, padding, dilation, groups, bias=not normalized)
    norm = [nn.BatchNorm2d(filters, eps=NORM_EPS)] if normalized else []
    reach = 2 * padding - dilation * (size - 1) - 1
    shape = Shape(filters, (height + reach) // strides[0] + 1, (width + reach) // strides[1] + 1)
    return Built(nn.Sequential(convolution, *norm, _activation(section, "logistic")), (index - 1,), shape)


def _maxpool(section: Section, index: int, shapes: Sequence[Shape]) -> Built:
    section.refuse("maxpool_depth", "antialiasing")
    strides = _strides(section, 1)
    size = section.integer("size", strides[1], least=1)
    padding = section.integer("padding", size - 1, least=0)
    channels, height, width = shapes[-1]
    shape = Shape(channels, *((n + padding - size) // s + 1 for n, s in zip((height, width), strides, strict=True)))
    return Built(MaxPool(size, strides, padding), (index - 1,), shape)


def _route(section: Section, index: int, shapes: Sequence[Shape]) -> Built:
    sources = _earlier(section, "layers", index)
    groups, group = section.integer("groups", 1, least=1), section.integer("group_id", 0, least=0)
    found = [shapes[source + 1] for source in sources]
    if len({shape[1:] for shape in found}) > 1:
        raise section.error(f"layers {_told(sources, found)} differ in height or width", "layers")
    if group >= groups or any(shape.channels % groups for shape in found):
        raise section.error(
            f"group_id={group} of groups={groups} cannot be taken from {_told(sources, found)}", "groups"
        )
    return Built(Route(groups, group), sources, Shape(sum(s.channels for s in found) // groups, *found[0][1:]))


def _shortcut(section: Section, index: int, shapes: Sequence[Shape]) -> Built:
    section.refuse("weights_type", "weights_normalization")
    sources = (index - 1, *_earlier(section, "from", index))
    found = [shapes[source + 1] for source in sources]
    if len(set(found)) > 1:
        raise section.error(f"layers {_told(sources, found)} differ in shape", "from")
    return Built(Shortcut(_activation(section, "linear")), sources, found[0])


def _upsample(section: Section, index: int, shapes: Sequence[Shape]) -> Built:
    stride, (channels, height, width) = section.integer("stride", 2, least=1), shapes[-1]
    scaled = Shape(channels, height * stride, width * stride)
    return Built(Upsample(stride, section.number("scale", 1)), (index - 1,), scaled)


def _reorg(section: Section, index: int, shapes: Sequence[Shape]) -> Built:
    section.refuse("reverse", "flatten", "extra")
    stride, (channels, height, width) = section.integer("stride", 1, least=1), shapes[-1]
    if channels % stride**2 or height % stride or width % stride:
        found = f"{channels} channels of {height} x {width}"
        raise section.error(f"stride={stride} divides not {found} (its square must divide the channels)", "stride")
    shape = Shape(channels * stride**2, height // stride, width // stride)
    return Built(Reorg(stride), (index - 1,), shape)


def _dropout(section: Section, index: int, shapes: Sequence[Shape]) -> Built:
    share = section.number("probability", 0.5)
    if not 0 <= share < 1:
        raise section.error(f"probability={share}, expected a share from 0 to 1", "probability")
    return Built(nn.Dropout(share), (index - 1,), shapes[-1])


def _head(section: Section, index: int, shapes: Sequence[Shape]) -> Built:
    """What is read elsewhere: yolo and region."""
    return Built(nn.Identity(), (index - 1,), shapes[-1])


def _earlier(section: Section, key: str, index: int) -> tuple[int, ...]:
    """The layers that `key` names, by number or (negative) by their distance."""
    given = section.integers(key)
    sources = tuple(index + number if number < 0 else number for number in given)
    if not sources or not all(0 <= source < index for source in sources):
        found = f"{key}={section.text(key, '')} at layer {index}"
        raise section.error(f"{found}, expected numbers of layers before it (or negative distances)", key)
    return sources


def _told(sources: Sequence[int], shapes: Sequence[Shape]) -> str:
    return ", ".join(f"{i} (c, h, w = {tuple(shape)})" for i, shape in zip(sources, shapes, strict=True))


LAYERS: dict[str, Callable[[Section, int, Sequence[Shape]], Built]] = {
    "convolutional": _convolutional,
    "maxpool": _maxpool,
    "route": _route,
    "shortcut": _shortcut,
    "upsample": _upsample,
    "reorg": _reorg,
    "dropout": _dropout,
    "yolo": _head,
    "region": _head,
}


def build(section: Section, index: int, shapes: Sequence[Shape]) -> Built:
    """Layer number `index`; `shapes[0]` is the image's, `shapes[i + 1]` layer i's."""
    kind = {"conv": "convolutional", "max": "maxpool"}.get(section.kind, section.kind)
    if kind not in LAYERS:
        raise section.error(f"layer {index} is of a kind that is not supported; supported: {', '.join(LAYERS)}")
    built = LAYERS[kind](section, index, shapes)
    if min(built.shape) < 1:
        raise section.error(
            f"layer {index} gives nothing: from {tuple(shapes[-1])} it makes {tuple(built.shape)} (c, h, w)"
        )
    return built
