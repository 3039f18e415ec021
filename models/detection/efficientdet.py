"""EfficientDet: a bidirectional feature pyramid that weighs its inputs. https://arxiv.org/abs/1911.09070

The defaults are D0's. Anchors, matching, decoding and class-wise NMS are torchvision's RetinaNet, whose heads these are.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import RetinaNet
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator

from shardlens.models.backbones import MEAN, STD, Backbone
from shardlens.models.detection.selection import SolidDetections
from shardlens.models.losses.boxes import focal_loss
from shardlens.models.options import require
from shardlens.models.spec import ModelSpec
from shardlens.models.torchvision_zoo import transform_rule

STRIDES = (8, 16, 32, 64, 128)
_SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
_RATIOS = (0.5, 1.0, 2.0)
_ANCHORS = len(_SCALES) * len(_RATIOS)
_FUSION_EPS = 1e-4
_NORM_EPS = 1e-3
_ALPHA, _GAMMA = 0.25, 1.5
_HUBER_DELTA, _BOX_WEIGHT = 0.1, 50.0
_CODE = (1.0, 1.0, 1.0, 1.0)
_MATCHED = 0.5
"""IoU from which an anchor has an object; below it the object's best anchors alone."""
_PRIOR = 0.01
"""Score of every anchor before training, so that the many negatives do not drown the first steps."""


class Fusion(nn.Module):
    """Fast normalized fusion (section 3.3), then swish, a depthwise-separable convolution and its norm."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(inputs))
        self.convolution = _separable(width, width)
        self.norm = nn.BatchNorm2d(width, _NORM_EPS)

    def shares(self) -> Tensor:
        """(inputs,): how much each input counts; never negative, in sum 1 less a part of the order of epsilon."""
        positive = self.weights.relu()
        return positive / (positive.sum() + _FUSION_EPS)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """One map (N, C, H, W) of several of that shape."""
        fused = sum(share * level for share, level in zip(self.shares(), maps, strict=True))
        refined: Tensor = self.norm(self.convolution(F.silu(fused)))
        return refined


class BiFPNCell(nn.Module):
    """One pass from the coarsest level down to the finest and back up (figure 3d).

    `channels` are those of its five inputs, finest first; its five outputs all have `width`.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        top = len(channels) - 1
        self.to_down = nn.ModuleList(_project(c, width) for c in channels[:-1])
        self.to_up = nn.ModuleList(_project(c, width) for c in channels[1:])
        self.down = nn.ModuleList(Fusion(2, width) for _ in range(top))
        self.up = nn.ModuleList(Fusion(2 if level == top else 3, width) for level in range(1, top + 1))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels (N, width, H_i, W_i) of levels (N, channels[i], H_i, W_i), each half as large as the one before."""
        between = [levels[-1]]
        for enter, fuse, level in zip(self.to_down[::-1], self.down[::-1], levels[-2::-1], strict=True):
            between.insert(0, fuse([enter(level), F.interpolate(between[0], size=level.shape[-2:])]))
        out = [between[0]]
        for i, (enter, fuse) in enumerate(zip(self.to_up, self.up, strict=True), start=1):
            own = [enter(levels[i]), between[i]] if i < len(levels) - 1 else [enter(levels[i])]
            out.append(fuse([*own, _halve(out[-1])]))
        return out


class Pyramid(nn.Module):
    """Features of the backbone at strides 8, 16 and 32, two coarser levels, and `cells` of BiFPN over the five."""

    def __init__(self, backbone: str, width: int, cells: int) -> None:
        super().__init__()
        self.body = Backbone(backbone, STRIDES[:3], widened=False)
        self.out_channels = width
        self.coarser = _project(self.body.channels[-1], width)
        first = (*self.body.channels, width, width)
        self.cells = nn.ModuleList(BiFPNCell(first if i == 0 else (width,) * 5, width) for i in range(cells))

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Maps (N, width, H / s, W / s) for the five strides s of images (N, 3, H, W), multiples of 128."""
        levels = self.body(images)
        levels.append(_halve(self.coarser(levels[-1])))
        levels.append(_halve(levels[-1]))
        for cell in self.cells:
            levels = cell(levels)
        return OrderedDict((str(i), level) for i, level in enumerate(levels))


class SharedHead(nn.Module):
    """Convolutions that all levels share, with a norm for each level of its own."""

    def __init__(self, width: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.convolutions = nn.ModuleList(_separable(width, width) for _ in range(depth))
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(width, _NORM_EPS) for _ in range(depth)) for _ in STRIDES
        )
        self.predict = _separable(width, outputs * _ANCHORS)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """(N, anchors of all levels, outputs) of five levels (N, width, H_i, W_i)."""
        found = [self._level(level, norms) for level, norms in zip(levels, self.norms, strict=True)]
        return torch.cat(found, dim=1)

    def _level(self, x: Tensor, norms: nn.Module) -> Tensor:
        for convolution, norm in zip(self.convolutions, norms.children(), strict=True):
            x = F.silu(norm(convolution(x)))
        return self.predict(x).permute(0, 2, 3, 1).reshape(len(x), -1, self.outputs)  # type: ignore[no-any-return]


class Heads(nn.Module):
    """Class and box of every anchor, and their losses, as torchvision's RetinaNet asks for them."""

    def __init__(self, width: int, num_classes: int, depth: int) -> None:
        super().__init__()
        self.classes = SharedHead(width, num_classes, depth)
        self.boxes = SharedHead(width, 4, depth)
        nn.init.constant_(self.classes.predict[-1].bias, -math.log((1 - _PRIOR) / _PRIOR))  # type: ignore[arg-type]

    def forward(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """cls_logits (N, A, K) and bbox_regression (N, A, 4) of all A anchors."""
        return {"cls_logits": self.classes(levels), "bbox_regression": self.boxes(levels)}

    def compute_loss(
        self,
        targets: Sequence[Mapping[str, Tensor]],
        outputs: Mapping[str, Tensor],
        anchors: Sequence[Tensor],
        matched: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """The mean over the images of each image's sum, divided by its matched anchors.

        Args:
            targets: for each image boxes (N, 4) xyxy and labels (N,).
            outputs: as `forward` gives them.
            anchors: (A, 4) xyxy for each image.
            matched: (A,) for each image: the object an anchor is matched to, negative for none.
        """
        classes, boxes = outputs["cls_logits"].float(), outputs["bbox_regression"].float()
        losses = [_image_losses(*parts) for parts in zip(targets, classes, boxes, anchors, matched, strict=True)]
        per_class, per_box = zip(*losses, strict=True)
        return {"classification": torch.stack(per_class).mean(), "bbox_regression": torch.stack(per_box).mean()}


def _image_losses(
    target: Mapping[str, Tensor], logits: Tensor, codes: Tensor, anchors: Tensor, matched: Tensor
) -> tuple[Tensor, Tensor]:
    """Focal loss of logits (A, K), Huber loss of the codes (A, 4) of anchors that have an object."""
    positive = matched >= 0
    owner, count = matched[positive], positive.sum().clamp(min=1)
    truth = torch.zeros_like(logits)
    truth[positive, target["labels"][owner]] = 1
    focal = focal_loss(logits, truth, _ALPHA, _GAMMA, reduction="sum") / count
    wanted = BoxCoder(_CODE).encode_single(target["boxes"][owner].float(), anchors[positive].float())
    huber = F.huber_loss(codes[positive], wanted, delta=_HUBER_DELTA, reduction="sum") / (4 * count)
    return focal, _BOX_WEIGHT * huber


def _anchors(scale: float) -> AnchorGenerator:
    """Nine anchors a cell: `scale` strides wide, and one and two thirds of an octave more, of three aspects."""
    sizes = tuple(tuple(scale * stride * step for step in _SCALES) for stride in STRIDES)
    return AnchorGenerator(sizes, (_RATIOS,) * len(STRIDES))


class EfficientDet(SolidDetections, RetinaNet):  # type: ignore[misc]  # torchvision is not typed
    """What the heads say of the pyramid's anchors; a RetinaNet, whose parts are given to it."""


def _build(
    *,
    num_classes: int,
    backbone: str = "efficientnet_b0",
    width: int = 64,
    cells: int = 3,
    depth: int = 3,
    image_size: int = 512,
    anchor_scale: float = 4.0,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    detections_per_image: int = 100,
) -> nn.Module:
    """`cells` of BiFPN and heads of `depth` convolutions, all `width` wide; the longer side becomes `image_size`."""
    require("width", width, 1, 1024)
    require("cells", cells, 1, 32)
    require("depth", depth, 1, 32)
    require("image_size", image_size, 32)
    require("anchor_scale", anchor_scale, 0.1)
    require("score_threshold", score_threshold, 0, 1)
    require("nms_threshold", nms_threshold, 0, 1)
    require("detections_per_image", detections_per_image, 1)
    network: nn.Module = EfficientDet(
        Pyramid(backbone, width, cells),
        num_classes,
        min_size=image_size,
        max_size=image_size,
        size_divisible=STRIDES[-1],
        image_mean=list(MEAN),
        image_std=list(STD),
        anchor_generator=_anchors(anchor_scale),
        head=Heads(width, num_classes, depth),
        proposal_matcher=Matcher(_MATCHED, _MATCHED, allow_low_quality_matches=True),
        score_thresh=score_threshold,
        nms_thresh=nms_threshold,
        detections_per_img=detections_per_image,
    )
    return network


def _separable(inputs: int, outputs: int) -> nn.Sequential:
    depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
    return nn.Sequential(depthwise, nn.Conv2d(inputs, outputs, 1))


def _project(inputs: int, outputs: int) -> nn.Module:
    """A 1x1 convolution to `outputs` channels, or nothing where they are that many."""
    if inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs, _NORM_EPS))


def _halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2, padding=1)


SPEC = ModelSpec(
    name="efficientdet",
    task="detection",
    build=_build,
    input_rule=transform_rule,
    paper="https://arxiv.org/abs/1911.09070",
    score_option="score_threshold",
)
