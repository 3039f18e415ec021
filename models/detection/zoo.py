"""The detectors of this folder: one file each, and one line below."""

from shardlens.models.detection import (
    convolutional_classifier,
    efficientdet,
    fast_rcnn,
    fcos,
    fcos_small,
    light_head_rcnn,
    localiser,
    overfeat,
    rcnn,
    rfcn,
    sliding_window,
    yolo_v1,
)
from shardlens.models.detection.cornernet import spec as cornernet
from shardlens.models.detection.detr import spec as detr
from shardlens.models.spec import ModelSpec

SPECS: tuple[ModelSpec, ...] = (
    convolutional_classifier.SPEC,
    cornernet.SPEC,
    detr.SPEC,
    efficientdet.SPEC,
    fast_rcnn.SPEC,
    fcos.SPEC,
    fcos_small.SPEC,
    light_head_rcnn.SPEC,
    localiser.SPEC,
    overfeat.SPEC,
    rcnn.SPEC,
    rfcn.SPEC,
    sliding_window.SPEC,
    yolo_v1.SPEC,
)
