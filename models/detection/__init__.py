"""Detectors written here, from their papers: one file each, and one line below."""

from models.detection import fcos_small
from models.spec import ModelSpec

SPECS: tuple[ModelSpec, ...] = (fcos_small.SPEC,)
