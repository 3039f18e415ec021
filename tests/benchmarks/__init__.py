"""Benchmarks: each compares contestants side by side, one process after another, on the same images and model."""
