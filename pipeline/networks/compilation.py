"""torch.compile for networks that predict: slower to start, faster from then on."""

from __future__ import annotations

import torch
from torch import nn

from shardlens.models.spec import InputRule
from shardlens.pipeline.errors import ConfigError


def compile_network(model: nn.Module, rule: InputRule, device: torch.device) -> None:
    """Compile the part of `model` whose shapes depend on the image alone: a detector's backbone, else all of it.

    Shapes are symbols unless the network takes one size only: a kernel made for the first shape that comes would make
    rounding depend on the order of images.

    Raises:
        ConfigError: torch has no compiler for the device here.
    """
    backbone = getattr(model, "backbone", None)
    part = backbone if isinstance(backbone, nn.Module) else model
    try:
        torch.compile(nn.Linear(1, 1).to(device), dynamic=False)(torch.zeros(1, 1, device=device))
    except Exception as error:  # noqa: BLE001 - whatever is missing, it is the machine's
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"--compile needs a compiler that torch can use on the worker (g++ for a CPU, Triton for a GPU): {reason}"
        ) from None
    part.compile(dynamic=rule.fixed is None)
