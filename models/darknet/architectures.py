"""YOLOv2, v3 and v4-tiny as sections of a .cfg, layer by layer where the published .weights have them.

https://arxiv.org/abs/1612.08242, https://arxiv.org/abs/1804.02767, https://arxiv.org/abs/2011.08036
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from shardlens.models.darknet.cfg import Section, section
from shardlens.models.errors import ModelError
from shardlens.models.options import require

STRIDE = 32
"""Pixels of the input per cell of the coarsest level."""
CHANNELS = 8
"""Filters are as many as a multiple of this, whatever the width."""

Anchors = tuple[tuple[float, float], ...]

REGION_ANCHORS: Anchors = (
    (18.32736, 21.67632),
    (59.98272, 66.00096),
    (106.82976, 175.17888),
    (252.25024, 112.88896),
    (312.65664, 293.38496),
)
"""YOLOv2's on COCO, in pixels; Darknet's .cfg has them in cells of 32."""
TREE_ANCHORS: Anchors = ((24.91872, 36.50368), (96.168, 138.00864), (295.272, 307.83168))
"""YOLO9000's."""
TINY_ANCHORS: Anchors = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))
ANCHORS: Anchors = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))
"""YOLOv3's on COCO."""


@dataclass(frozen=True)
class Plan:
    """What one network is made with."""

    classes: int
    input_size: int
    """Height and width of the input in pixels, a multiple of `STRIDE`."""
    width: float
    """Factor on the filters of every layer but the last ones."""
    anchors: Anchors
    """(width, height) in pixels of the input, from small to large."""
    head: Mapping[str, object] = field(default_factory=dict)
    """Further keys of the [yolo] or [region] sections."""

    def __post_init__(self) -> None:
        require("input_size", self.input_size, STRIDE)
        if self.input_size % STRIDE:
            raise ModelError(f"option input_size is {self.input_size}; it must be a multiple of {STRIDE}")
        require("width", self.width, 0.01, 4)

    def net(self) -> Section:
        """The first section."""
        return section("net", width=self.input_size, height=self.input_size, channels=3)

    def conv(self, filters: int, size: int = 3, stride: int = 1) -> Section:
        """A normalized convolution that keeps the size, or divides it by the stride."""
        kept = max(CHANNELS, CHANNELS * round(filters * self.width / CHANNELS))
        keys = {"filters": kept, "size": size, "stride": stride, "pad": 1, "activation": "leaky"}
        return section("convolutional", batch_normalize=1, **keys)

    def yolo(self, level: int, levels: int, mask: tuple[int, ...] | None = None) -> list[Section]:
        """The last convolution and the [yolo] section of a level, 0 = the coarsest, which has the largest anchors."""
        each, rest = divmod(len(self.anchors), levels)
        if rest:
            raise ModelError(f"{len(self.anchors)} anchors on {levels} levels: expected as many on each")
        low = (levels - 1 - level) * each
        mask = mask or tuple(range(low, low + each))
        flat = tuple(side for anchor in self.anchors for side in anchor)
        keys = {"mask": mask, "anchors": flat, "classes": self.classes, "num": len(self.anchors), **self.head}
        return [_last(len(mask) * (5 + self.classes)), section("yolo", **keys)]

    def region(self) -> list[Section]:
        """The last convolution and the [region] section."""
        flat = tuple(side / STRIDE for anchor in self.anchors for side in anchor)
        keys = {"anchors": flat, "classes": self.classes, "coords": 4, "num": len(self.anchors), "softmax": 1}
        keys |= {"bias_match": 1, "rescore": 1, "object_scale": 5, "noobject_scale": 1, "class_scale": 1}
        return [_last(len(self.anchors) * (5 + self.classes)), section("region", **(keys | dict(self.head)))]


def read_anchors(text: str) -> Anchors:
    """Anchors from "10,14, 23,27, ...": widths and heights in pixels, by area.

    Raises:
        ModelError: it is something else.
    """
    try:
        sides = [float(side) for side in text.split(",")]
    except ValueError:
        sides = []
    if not sides or len(sides) % 2 or not all(side > 0 and math.isfinite(side) for side in sides):
        raise ModelError(f"option anchors is {text!r}; expected widths and heights in pixels, such as 10,14,23,27")
    return tuple(sorted(zip(sides[::2], sides[1::2], strict=True), key=lambda anchor: anchor[0] * anchor[1]))


def yolov2(plan: Plan) -> list[Section]:
    """Darknet-19, and the maps of twice the resolution reorganized next to its last ones."""
    c = plan.conv
    layers = [*_darknet19(plan), c(1024), c(1024)]
    coarse = len(layers) - 1
    layers += [_route(_FINE), c(64, 1), section("reorg", stride=2), _route(-1, coarse), c(1024)]
    return [plan.net(), *layers, *plan.region()]


def yolo9000(plan: Plan) -> list[Section]:
    """Darknet-19, and a [region] layer."""
    return [plan.net(), *_darknet19(plan), *plan.region()]


def yolov2_tiny(plan: Plan) -> list[Section]:
    """Seven convolutions between poolings, and a [region] layer."""
    c = plan.conv
    layers = [each for filters in (16, 32, 64, 128, 256) for each in (c(filters), _pool())]
    layers += [c(512), _pool(stride=1), c(1024), c(512)]
    return [plan.net(), *layers, *plan.region()]


def yolov3(plan: Plan, spatial_pyramid: bool = False) -> list[Section]:
    """Darknet-53 and three levels, at strides 32, 16 and 8; YOLOv3-SPP pools with windows of 5, 9 and 13 in addition."""
    c = plan.conv
    layers, ends = [c(32)], []
    for filters, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        residual = [c(filters // 2, 1), c(filters), section("shortcut", **{"from": -3}, activation="linear")]
        layers += [c(filters, stride=2), *blocks * residual]
        ends.append(len(layers) - 1)
    for level, filters in enumerate((512, 256, 128)):
        if level:
            layers += [_route(-4), c(filters, 1), section("upsample", stride=2), _route(-1, ends[4 - level])]
        middle = _pyramid(plan) if spatial_pyramid and not level else [c(filters, 1), c(2 * filters)]
        layers += [c(filters, 1), c(2 * filters), *middle, c(filters, 1), c(2 * filters), *plan.yolo(level, 3)]
    return [plan.net(), *layers]


def yolov3_spp(plan: Plan) -> list[Section]:
    """YOLOv3 with spatial pyramid pooling on its coarsest level."""
    return yolov3(plan, spatial_pyramid=True)


def yolov3_tiny(plan: Plan) -> list[Section]:
    """Convolutions between poolings, and two levels, at strides 32 and 16."""
    c = plan.conv
    layers = [each for filters in (16, 32, 64, 128) for each in (c(filters), _pool())]
    layers += [c(256), _pool(), c(512), _pool(stride=1), c(1024), c(256, 1), c(512), *plan.yolo(0, 2)]
    layers += [_route(-4), c(128, 1), section("upsample", stride=2), _route(-1, 8), c(256), *plan.yolo(1, 2)]
    return [plan.net(), *layers]


def yolov4_tiny(plan: Plan) -> list[Section]:
    """Three stages whose second half of channels goes through convolutions of its own (CSP), and two levels."""
    c = plan.conv
    layers = [c(32, stride=2), c(64, stride=2)]
    for filters in (64, 128, 256):
        half = filters // 2
        second = section("route", layers=-1, groups=2, group_id=1)
        layers += [c(filters), second, c(half), c(half), _route(-1, -2), c(filters, 1), _route(-6, -1), _pool()]
    masks = ((3, 4, 5), (1, 2, 3)) if plan.anchors == TINY_ANCHORS else (None, None)  # so the published weights have it
    layers += [c(512), c(256, 1), c(512), *plan.yolo(0, 2, masks[0])]
    layers += [_route(-4), c(128, 1), section("upsample", stride=2), _route(-1, 23), c(256)]
    return [plan.net(), *layers, *plan.yolo(1, 2, masks[1])]


_FINE = 16
"""Darknet-19's last layer at stride 16."""


def _darknet19(plan: Plan) -> list[Section]:
    """Its convolutions, without the classifier."""
    c = plan.conv
    layers = [c(32), _pool(), c(64)]
    for filters, squeezes in ((128, 1), (256, 1), (512, 2), (1024, 2)):
        layers += [_pool(), c(filters), *squeezes * [c(filters // 2, 1), c(filters)]]
    return layers


def _pyramid(plan: Plan) -> list[Section]:
    pools = [_pool(5, 1), _route(-2), _pool(9, 1), _route(-4), _pool(13, 1), _route(-1, -3, -5, -6)]
    return [plan.conv(512, 1), *pools, plan.conv(512, 1), plan.conv(1024)]


def _last(filters: int) -> Section:
    return section("convolutional", filters=filters, size=1, stride=1, pad=1, activation="linear")


def _pool(size: int = 2, stride: int = 2) -> Section:
    return section("maxpool", size=size, stride=stride)


def _route(*layers: int) -> Section:
    return section("route", layers=layers)
