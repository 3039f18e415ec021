"""Optimizers, the learning rate of each step, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Set
from itertools import product

import torch
from torch import nn

from shardlens.pipeline.training.optimization import Optimization

SECOND_BETA = 0.999
"""Of AdamW."""


def build(config: Optimization, network: nn.Module, backbone: Set[str] = frozenset()) -> torch.optim.Optimizer:
    """The optimizer over all of `network`, in up to four groups, each with the `factor` of its learning rate.

    Parameters called in `backbone` learn at `backbone_factor` of the rate; biases and norms (one dimension or none)
    do not decay. Frozen parameters get no gradient, and so are neither moved nor decayed until they are thawed.
    """
    groups = []
    for slow, decays in product((False, True), (True, False)):
        named = network.named_parameters()
        chosen = [p for name, p in named if (name in backbone) == slow and (p.ndim > 1) == decays]
        factor, decay = config.backbone_factor if slow else 1.0, config.weight_decay if decays else 0.0
        about = {"name": "backbone" if slow else "head" if backbone else "all", "factor": factor}
        groups.append({"params": chosen, **about, "weight_decay": decay, "lr": config.learning_rate * factor})
    held = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(held, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(held, lr=config.learning_rate, betas=(config.momentum, SECOND_BETA))


def rate(step: int, steps: int, config: Optimization) -> float:
    """Share of the peak learning rate at step 0, 1, ... of `steps`: a line up in the warm-up, then the schedule.

    Cosine and poly begin at the end of the warm-up; milestones are shares of the whole run.
    SGDR, https://arxiv.org/abs/1608.03983, without restarts; poly as DeepLab, https://arxiv.org/abs/1606.00915.
    """
    rising = round(config.warmup * steps)
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / (steps - rising)
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if config.schedule == "poly":
        return float((1 - done) ** config.power)
    passed = sum(step >= round(milestone * steps) for milestone in config.milestones)
    return float(config.gamma**passed) if config.schedule == "step" else 1.0


def set_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["factor"]


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Learning rate by the group's name: all, or head and backbone."""
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def gradient_norm(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """Shorten the gradients to `limit` (0 = leave them) and return the length that they had."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit or math.inf)
    return float(norm)
