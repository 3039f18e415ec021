"""Segmenters written here, from their papers: one file each, and one line below."""

from models.segmentation import (
    deconvnet,
    dilatednet,
    fcn,
    frrn,
    gcn,
    hourglass,
    parsenet,
    patch_classifier,
    segnet,
    smp,
    unet,
)
from models.spec import ModelSpec

SPECS: tuple[ModelSpec, ...] = (
    deconvnet.SPEC,
    dilatednet.SPEC,
    *fcn.SPECS,
    frrn.SPEC,
    gcn.SPEC,
    hourglass.SPEC,
    parsenet.SPEC,
    patch_classifier.SPEC,
    segnet.SPEC,
    *smp.SPECS,
    unet.SPEC,
)
