"""Torchvision's detection, instance and semantic segmentation networks, as they are, under torchvision's names.

Nothing is downloaded at build: the published weights' addresses stand in each spec, for the caller to fetch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import nn
from torchvision.models import get_model_builder, get_model_weights

from shardlens.models.norms import keeping_up, steady
from shardlens.models.options import require
from shardlens.models.spec import InputRule, ModelSpec, Published, Task

_ARXIV = "https://arxiv.org/abs/"
_ORIGINAL_NORM = {"norm_eps": 0.0}
"""Torchvision's first ResNet-50 weights were trained before FrozenBatchNorm2d had an epsilon (pytorch/vision#2933)."""
_PRESET_SIZE = 520
"""Shorter side at which torchvision's semantic networks were trained and are scored."""


def _check_selection(score_threshold: float, nms_threshold: float, detections_per_image: int) -> None:
    require("score_threshold", score_threshold, 0, 1)
    require("nms_threshold", nms_threshold, 0, 1)
    require("detections_per_image", detections_per_image, 1)


def _check_sizes(min_size: int, max_size: int) -> None:
    require("min_size", min_size, 1)
    require("max_size", max_size, min_size)


def _untrained(name: str, num_classes: int, **settings: Any) -> nn.Module:
    """Torchvision's network without weights, not even its backbone's (which it would download)."""
    network: nn.Module = get_model_builder(name)(
        weights=None, weights_backbone=None, num_classes=num_classes, **settings
    )
    return network


def _set_norm_eps(model: nn.Module, eps: float) -> None:
    require("norm_eps", eps, 0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps


def _rcnn(
    name: str,
    *,
    num_classes: int,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    detections_per_image: int = 100,
    min_size: int = 800,
    max_size: int = 1333,
    regions_per_image: int = 512,
    norm_eps: float = 1e-5,
) -> nn.Module:
    """Faster R-CNN and Mask R-CNN. The second stage is trained on `regions_per_image` of the first one's proposals."""
    require("regions_per_image", regions_per_image, 1)
    _check_selection(score_threshold, nms_threshold, detections_per_image)
    _check_sizes(min_size, max_size)
    model = _untrained(
        name,
        num_classes,
        box_score_thresh=score_threshold,
        box_nms_thresh=nms_threshold,
        box_detections_per_img=detections_per_image,
        box_batch_size_per_image=regions_per_image,
        min_size=min_size,
        max_size=max_size,
    )
    _set_norm_eps(model, norm_eps)
    return model


def _one_stage(
    name: str,
    *,
    num_classes: int,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    detections_per_image: int = 300,
    min_size: int = 800,
    max_size: int = 1333,
    norm_eps: float = 1e-5,
) -> nn.Module:
    """RetinaNet and FCOS."""
    _check_selection(score_threshold, nms_threshold, detections_per_image)
    _check_sizes(min_size, max_size)
    model = _untrained(
        name,
        num_classes,
        score_thresh=score_threshold,
        nms_thresh=nms_threshold,
        detections_per_img=detections_per_image,
        min_size=min_size,
        max_size=max_size,
    )
    _set_norm_eps(model, norm_eps)
    return model


def _ssd(
    name: str, *, num_classes: int, score_threshold: float, nms_threshold: float, detections_per_image: int
) -> nn.Module:
    """SSD and SSDlite, whose input size is fixed."""
    _check_selection(score_threshold, nms_threshold, detections_per_image)
    return _untrained(
        name,
        num_classes,
        score_thresh=score_threshold,
        nms_thresh=nms_threshold,
        detections_per_img=detections_per_image,
    )


def _semantic(name: str, *, num_classes: int, aux_loss: bool = True, min_size: int = _PRESET_SIZE) -> nn.Module:
    """FCN and DeepLabV3; their published weights have the auxiliary classifier that `aux_loss` adds."""
    return _sized(steady(_untrained(name, num_classes, aux_loss=aux_loss)), min_size)


def _lraspp(name: str, *, num_classes: int, min_size: int = _PRESET_SIZE) -> nn.Module:
    return _sized(_untrained(name, num_classes), min_size)


def _sized(model: nn.Module, min_size: int) -> nn.Module:
    """Note the length of the shorter side that images get, 0 = their own, where `_preset_rule` looks for it."""
    require("min_size", min_size, 0)
    keeping_up(model).min_size = min_size  # type: ignore[assignment]  # modules may hold anything
    return model


def transform_rule(model: nn.Module) -> InputRule:
    """What the `GeneralizedRCNNTransform` inside a torchvision detector makes of an image in evaluation."""
    transform: Any = model.transform
    if transform.fixed_size is not None:
        width, height = transform.fixed_size
        return InputRule(fixed=(height, width), multiple=transform.size_divisible)
    return InputRule(min_size=transform.min_size[-1], max_size=transform.max_size, multiple=transform.size_divisible)


def _preset_rule(name: str, model: nn.Module) -> InputRule:
    """The normalization that torchvision publishes with the network's weights, and by default its resize."""
    preset = get_model_weights(name).DEFAULT.transforms()
    sized: Any = model
    return InputRule(min_size=sized.min_size or None, mean=tuple(preset.mean), std=tuple(preset.std))


def _published(name: str, options: dict[str, float]) -> dict[str, Published]:
    """The published weights; torchvision's file names end in the first eight digits of their SHA-256."""
    members = get_model_weights(name).__members__.items()
    digest = re.compile(r"-([0-9a-f]{8})\.pth$")
    found = {key: (member.url, digest.search(member.url)) for key, member in members}
    return {key: Published(url, match[1] if match else None, options) for key, (url, match) in found.items()}


def _spec(
    task: Task,
    name: str,
    family: Callable[..., nn.Module],
    paper: str,
    published_options: Mapping[str, float] | None = None,
    **defaults: Any,
) -> ModelSpec:
    """The spec of torchvision's `name`; `defaults` are those of its options that differ from its family's."""
    return ModelSpec(
        name=name,
        task=task,
        build=partial(family, name, **defaults),
        input_rule=partial(_preset_rule, name) if task == "semantic" else transform_rule,
        paper=_ARXIV + paper,
        source="torchvision",
        labels=tuple(get_model_weights(name).DEFAULT.meta["categories"]),
        score_option=None if task == "semantic" else "score_threshold",
        published=_published(name, dict(published_options or {})),
    )


def _detectors() -> Iterator[ModelSpec]:
    spec = partial(_spec, "detection")
    yield spec("fasterrcnn_resnet50_fpn", _rcnn, "1506.01497", _ORIGINAL_NORM)
    yield spec("fasterrcnn_resnet50_fpn_v2", _rcnn, "2111.11429")
    yield spec("fasterrcnn_mobilenet_v3_large_fpn", _rcnn, "1506.01497")
    yield spec("fasterrcnn_mobilenet_v3_large_320_fpn", _rcnn, "1506.01497", min_size=320, max_size=640)
    yield spec("retinanet_resnet50_fpn", _one_stage, "1708.02002", _ORIGINAL_NORM)
    yield spec("retinanet_resnet50_fpn_v2", _one_stage, "1912.02424")
    fcos: dict[str, Any] = {"score_threshold": 0.2, "nms_threshold": 0.6, "detections_per_image": 100}
    yield spec("fcos_resnet50_fpn", _one_stage, "1904.01355", **fcos)
    ssd: dict[str, Any] = {"score_threshold": 0.01, "nms_threshold": 0.45, "detections_per_image": 200}
    yield spec("ssd300_vgg16", _ssd, "1512.02325", **ssd)
    ssdlite: dict[str, Any] = {"score_threshold": 0.001, "nms_threshold": 0.55, "detections_per_image": 300}
    yield spec("ssdlite320_mobilenet_v3_large", _ssd, "1905.02244", **ssdlite)


def _segmenters() -> Iterator[ModelSpec]:
    yield _spec("instance", "maskrcnn_resnet50_fpn", _rcnn, "1703.06870", _ORIGINAL_NORM)
    yield _spec("instance", "maskrcnn_resnet50_fpn_v2", _rcnn, "2111.11429")
    spec = partial(_spec, "semantic")
    yield spec("fcn_resnet50", _semantic, "1411.4038")
    yield spec("fcn_resnet101", _semantic, "1411.4038")
    yield spec("deeplabv3_resnet50", _semantic, "1706.05587")
    yield spec("deeplabv3_resnet101", _semantic, "1706.05587")
    yield spec("deeplabv3_mobilenet_v3_large", _semantic, "1706.05587")
    yield spec("lraspp_mobilenet_v3_large", _lraspp, "1905.02244")


SPECS: tuple[ModelSpec, ...] = (*_detectors(), *_segmenters())
