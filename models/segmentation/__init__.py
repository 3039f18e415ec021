"""Segmenters written here, from their papers: one file each, and one line below."""

from models.segmentation import unet
from models.spec import ModelSpec

SPECS: tuple[ModelSpec, ...] = (unet.SPEC,)
