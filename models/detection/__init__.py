"""Detectors written here, from their papers: one file each, and one line below."""

from models.detection import detr, efficientdet, fcos, fcos_small
from models.spec import ModelSpec

SPECS: tuple[ModelSpec, ...] = (
    detr.SPEC,
    efficientdet.SPEC,
    fcos.SPEC,
    fcos_small.SPEC,
)
