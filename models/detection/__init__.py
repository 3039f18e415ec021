"""Detectors written here, from their papers: one file each, or a folder; `zoo` lists them."""
