"""The segmenters of this folder: one file each, and one line below."""

from shardlens.models.segmentation import (
    deconvnet,
    dilatednet,
    fcn,
    frrn,
    gcn,
    hourglass,
    panoptic_fpn,
    parsenet,
    patch_classifier,
    segnet,
    smp,
    unet,
)
from shardlens.models.spec import ModelSpec

SPECS: tuple[ModelSpec, ...] = (
    deconvnet.SPEC,
    dilatednet.SPEC,
    *fcn.SPECS,
    frrn.SPEC,
    gcn.SPEC,
    hourglass.SPEC,
    panoptic_fpn.SPEC,
    parsenet.SPEC,
    patch_classifier.SPEC,
    segnet.SPEC,
    *smp.SPECS,
    unet.SPEC,
)
