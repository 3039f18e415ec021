"""What the C library does with freed memory, counted in the pages that the system hands out; each in its own process."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
from pipeline import allocator
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
