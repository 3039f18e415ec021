"""Segmenters written here, from their papers: one file each, and one line below."""

from models.segmentation import fcn, segnet, unet
from models.spec import ModelSpec

SPECS: tuple[ModelSpec, ...] = (
    *fcn.SPECS,
    segnet.SPEC,
    unet.SPEC,
)
