"""The device that a network computes on: opened by name, and what its errors mean."""

from __future__ import annotations

import torch

from shardlens.pipeline.errors import ConfigError

CPU_IS_FULL = ("DefaultCPUAllocator", "can't allocate memory")
"""In the messages of a CPU without memory, an error that has no class of its own in torch."""


def open_device(name: str) -> torch.device:
    """The device called `name`.

    Raises:
        ConfigError: it is a GPU and torch sees none.
    """
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--gpus-per-worker asks for a GPU, but torch sees none on the worker: set it to 0, or fix the driver"
        )
    return device


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the device (or torch's CPU allocator) was not enough."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(sign in str(error) for sign in CPU_IS_FULL)


def is_broken(error: BaseException) -> bool:
    """Whether the GPU's context is broken, so that every later call would fail too."""
    return isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError)
