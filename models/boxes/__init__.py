"""Boxes as tensors: matching, coding, sampling, suppression, fusion and windows. All are (N, 4) xyxy float in pixels."""
