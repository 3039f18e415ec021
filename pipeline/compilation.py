"""torch.compile for networks that predict: slower to start, faster from then on."""

from __future__ import annotations

import torch
from torch import nn

from models.spec import InputRule
from pipeline.errors import ConfigError


def compile_network(model: nn.Module, rule: InputRule) -> None:
    """Compile the part of `model` whose shapes depend on the image alone: a detector's backbone, else all of it.

    Shapes are symbols unless the network takes one size only: a kernel made for the first shape that comes would make
    rounding depend on the order of images.

    Raises:
        ConfigError: torch has no compiler for the device here.
    """
    backbone = getattr(model, "backbone", None)
    part = backbone if isinstance(backbone, nn.Module) else model
    try:
        torch.compile(nn.Linear(1, 1), dynamic=False)(torch.zeros(1, 1))
    except Exception as error:  # noqa: BLE001 - whatever is missing, it is the machine's
        raise ConfigError(
            f"--compile needs a compiler that torch can use on the worker (g++, for a CPU): {str(error).splitlines()[0]}"
        ) from None
    part.compile(dynamic=rule.fixed is None)
