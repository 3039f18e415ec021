"""Darknet's detectors: any .cfg of the YOLOv2, v3 and v4-tiny kind with its .weights, and the published ones by name."""

from __future__ import annotations

from models.darknet.zoo import SPECS

from .network import DarknetDetector

__all__ = ["SPECS", "DarknetDetector"]
