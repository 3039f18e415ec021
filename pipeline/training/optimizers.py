"""Optimizers and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

MOMENTUM = 0.9


def build(name: str, model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """The optimizer called `name` over what of `model` can be trained; biases and norms do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kept = [group for group in groups if group["params"]]
    if name == "sgd":
        return torch.optim.SGD(kept, lr=learning_rate, momentum=MOMENTUM)
    return torch.optim.AdamW(kept, lr=learning_rate)


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at step 0, 1, ... of `steps`: a line up, then half a cosine down.

    SGDR, https://arxiv.org/abs/1608.03983, without restarts.
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def set_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def gradient_norm(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """Shorten the gradients to `limit` (0 = leave them) and return the length that they had."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit or math.inf)
    return float(norm)
