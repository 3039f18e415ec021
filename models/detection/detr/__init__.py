"""DETR: detection as the prediction of a set, without anchors or suppression. https://arxiv.org/abs/2005.12872"""
