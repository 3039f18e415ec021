"""What the C library does with freed memory, counted in the pages that the system hands out; each in its own process."""

import os
import subprocess
import sys

import pytest

from shardlens.pipeline.executors import malloc

SCRIPT = """
import resource, sys
from shardlens.pipeline.executors import malloc as allocator
import numpy as np
getattr(allocator, sys.argv[1])()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    parts = [np.ones(size, np.uint8) for size in (int(sys.argv[2]) << 20, 3 << 20, 1 << 16)]
for _ in range(3):
    step()
before = faults()
for _ in range(10):
    step()
print(faults() - before)
"""


def pages_per_step(setting: str, megabytes: int) -> float:
    """Of 4 KB, while an array of `megabytes` and two small ones are made anew again and again."""
    command = [sys.executable, "-c", SCRIPT, setting, str(megabytes)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 10


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_kept_memory_is_used_again() -> None:
    assert pages_per_step("keep_freed_memory", 48) < 10


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_large_arrays_go_back_to_the_system() -> None:
    assert pages_per_step("give_memory_back", 20) > 10


HEAPS = """
import ctypes, os, sys, tempfile, threading
from shardlens.pipeline.executors import malloc as allocator
if sys.argv[1]:
    getattr(allocator, sys.argv[1])()
ready = threading.Barrier(12)
def allocate():
    ready.wait()
    kept.append(ctypes.create_string_buffer(1 << 16))
    ready.wait()
kept = []
threads = [threading.Thread(target=allocate) for _ in range(12)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
with tempfile.TemporaryFile() as file:
    sink = libc.fdopen(os.dup(file.fileno()), b"w")
    libc.malloc_info(0, ctypes.c_void_p(sink))
    libc.fclose(ctypes.c_void_p(sink))
    file.seek(0)
    print(file.read().count(b"<heap nr="))
"""


def heaps(setting: str) -> int:
    """How many the allocator has after a dozen threads have asked it for memory at once."""
    command = [sys.executable, "-c", HEAPS, setting]
    unset = {name: value for name, value in os.environ.items() if name not in malloc.AT_START}
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=unset).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_threads_share_two_heaps() -> None:
    assert heaps("") > 2
    assert heaps("keep_freed_memory") <= 2
    assert heaps("give_memory_back") <= 2
