"""CornerNet: an object is a pair of corners that two heat maps show. https://arxiv.org/abs/1808.01244"""
