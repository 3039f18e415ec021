"""Which numbers a network computes with, and whether this machine computes faster with shorter ones."""

from __future__ import annotations

import time
from functools import cache

import torch
from torch import nn

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PAYS = 1.3
"""How much faster a convolution has to be in bf16. Whole networks gain less than it does: they also sort, resize and copy."""
REPEATS = 7
"""Convolutions of each kind, of which the fastest counts."""


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a network computes in `precision`, one of `PRECISIONS`."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def resolve_precision(precision: str, device: str) -> str:
    """Turn auto into bf16 where the hardware gains by it, else fp32; a GPU that is elsewhere is taken for one that does."""
    if precision != "auto":
        return precision
    if device == "cuda":
        native = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    return "bf16" if bf16_speedup() >= PAYS else "fp32"


@cache
def bf16_speedup() -> float:
    """How many times as fast a core of this machine is with bf16, by a convolution of 64 channels (30 ms, once a process).

    What the CPU says of itself does not tell. Of two with AVX512-BF16, an EPYC (1.7 to 2.2 here) ran a detector 1.4 times as
    fast in bf16, a Xeon ran it more slowly; with AMX it took half the time; and where bf16 is emulated, an epoch of training
    took eight times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker has it; more would finish too soon to be timed
    try:
        seconds = {precision: [_convolution(precision)] for precision in ("fp32", "bf16")}  # the first one prepares
        for _ in range(REPEATS):
            for precision, taken in seconds.items():
                taken.append(_convolution(precision))
            if min(seconds["bf16"]) > 4 * min(seconds["fp32"]):
                break  # emulated, and a second each where there is no library for it
    finally:
        torch.set_num_threads(threads)
    return min(seconds["fp32"]) / min(seconds["bf16"])


@torch.inference_mode()
def _convolution(precision: str) -> float:
    """Seconds that one takes."""
    pixels = torch.ones(1, 64, 64, 64).to(memory_format=torch.channels_last)
    weights = torch.ones(64, 64, 3, 3).to(memory_format=torch.channels_last)
    begun = time.perf_counter()
    with autocast(torch.device("cpu"), precision):
        nn.functional.conv2d(pixels, weights, padding=1)
    return time.perf_counter() - begun
