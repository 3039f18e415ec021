"""Segmenters written here, from their papers: one file each, and one line below."""

from models.segmentation import deconvnet, fcn, hourglass, segnet, smp, unet
from models.spec import ModelSpec

SPECS: tuple[ModelSpec, ...] = (
    deconvnet.SPEC,
    *fcn.SPECS,
    hourglass.SPEC,
    segnet.SPEC,
    *smp.SPECS,
    unet.SPEC,
)
