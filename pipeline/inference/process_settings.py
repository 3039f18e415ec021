"""Settings of the process that prediction changes, and restores: a local run computes in its caller's process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from shardlens.pipeline.executors import malloc


@contextmanager
def own_settings(threads: int, tiled: bool) -> Iterator[None]:
    """Set torch's threads, and what the C library does with freed memory; both are as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    if tiled:
        malloc.give_memory_back()
    else:
        malloc.keep_freed_memory()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        malloc.restore_defaults()
