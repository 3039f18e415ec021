"""Detectors written here, from their papers: one file each, and one line below."""

from models.detection import cornernet, detr, efficientdet, fast_rcnn, fcos, fcos_small, light_head_rcnn, rfcn, yolo_v1
from models.spec import ModelSpec

SPECS: tuple[ModelSpec, ...] = (
    cornernet.SPEC,
    detr.SPEC,
    efficientdet.SPEC,
    fast_rcnn.SPEC,
    fcos.SPEC,
    fcos_small.SPEC,
    light_head_rcnn.SPEC,
    rfcn.SPEC,
    yolo_v1.SPEC,
)
