"""What the C library (glibc; others are left as they are) does with memory that is freed: kept, or given back.

By default it gives the end of its heap, and many a large block, back to the system, and has the next step's tensors
made of fresh pages, each of which costs a fault: on a CPU that was a tenth of the time of a training step. And it has up
to eight heaps a core, each of which keeps what its threads freed: with thirty threads a worker took 300 MB more so, and
ever more over thousands of images. Set for the process, until `restore_defaults`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Of glibc's malloc.h."""
DEFAULTS = (
    (M_TRIM_THRESHOLD, "MALLOC_TRIM_THRESHOLD_", 128 << 10),
    (M_MMAP_THRESHOLD, "MALLOC_MMAP_THRESHOLD_", 128 << 10),
    (M_ARENA_MAX, "MALLOC_ARENA_MAX", 0),
)
"""What glibc begins with (mallopt(3)), and the variables that change it."""
HEAPS = 2
"""What glibc calls arenas; with one alone, threads would wait for each other."""
AT_START = {"MALLOC_ARENA_MAX": str(HEAPS)}
"""The same for processes that have many threads before they come here, as Ray's have: glibc reads it at their start."""


def keep_freed_memory() -> None:
    """Let the tensors of a step be made of the last one's memory, in few heaps."""
    _set(M_ARENA_MAX, HEAPS)
    _set(M_TRIM_THRESHOLD, (1 << 31) - 1)
    if not _set(M_MMAP_THRESHOLD, 1 << 30):
        _set(M_MMAP_THRESHOLD, 1 << 25)  # older ones take no more


def give_memory_back() -> None:
    """Let every array of a megabyte or more go back to the system once it is freed; few heaps keep the others.

    By itself glibc learns to keep such blocks, and what is kept for longer, rows and overlaps of a large image, comes to
    lie between them: over a thousand tiles a worker grew by 400 MB.
    """
    _set(M_ARENA_MAX, HEAPS)
    _set(M_MMAP_THRESHOLD, 1 << 20)


def restore_defaults() -> None:
    """Let the library treat freed memory as a new process does: by the user's MALLOC_ variables, else its own defaults.

    The settings before cannot be read. Heaps that exist stay; how many there may be is fixed when a thread first asks.
    """
    for parameter, variable, default in DEFAULTS:
        given = os.environ.get(variable, "")
        _set(parameter, int(given) if given.isdigit() else default)


def _set(parameter: int, value: int) -> bool:
    """Whether the C library knows it, and takes the value."""
    with contextlib.suppress(AttributeError, OSError):
        return bool(ctypes.CDLL(None).mallopt(parameter, value))
    return False
