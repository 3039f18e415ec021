"""Augmentation: random changes of an image together with its boxes, masks and map."""
