"""Detectors written here, from their papers: one file each, and one line below."""

from models.detection import efficientdet, fcos_small
from models.spec import ModelSpec

SPECS: tuple[ModelSpec, ...] = (
    efficientdet.SPEC,
    fcos_small.SPEC,
)
