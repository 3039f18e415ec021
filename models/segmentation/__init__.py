"""Segmenters written here, from their papers: one file each; `zoo` lists them."""
