"""Darknet's detectors: any .cfg of the YOLOv2, v3 and v4-tiny kind with its .weights, and by name those of `zoo`."""
