"""Mutated files, each read in a child of its own: rows, a quarantine reason or an explained error, and nothing else.

    python -m tests.fuzz COUNT [SEED] [TARGET ...]

A child has 4 GB and 10 seconds. What fails is printed with its target, its number and the end of its traceback; the
same number makes the same input again.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from random import Random

from shardlens.pipeline.errors import ShardlensError
from tests.fuzz.targets import Target, targets

MEMORY = 4 << 30
SECONDS = 10


def attempt(target: Target, data: bytes, folder: Path, log: Path) -> None:
    """In a child: read the input, and leave."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    warnings.simplefilter("ignore")
    try:
        target.read(data, folder)
    except ShardlensError:
        os._exit(0)
    except BaseException:  # noqa: BLE001 - whatever it is, it is what is looked for
        log.write_text(traceback.format_exc()[-1500:])
        os._exit(1)
    os._exit(0)


def outcome(child: int) -> str:
    """How a child ended: empty if it is as it should be."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return "" if status == 0 else f"status {os.waitstatus_to_exitcode(status)}"
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"more than {SECONDS} s"


def main(count: int, seed: int, names: list[str]) -> int:
    """Run `count` inputs over all targets in turn; returns how many failed."""
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    known = targets(root)
    chosen = names or list(known)
    failed = 0
    for number in range(count):
        name = chosen[number % len(chosen)]
        data = known[name].mutate(known[name].seed, Random(f"{seed}/{name}/{number}"))
        folder = root / "case"
        folder.mkdir()
        child = os.fork()
        if child == 0:
            attempt(known[name], data, folder, root / "log")
        reason = outcome(child)
        if reason:
            failed += 1
            told = (root / "log").read_text() if (root / "log").exists() else ""
            print(f"{name} {number}: {reason}\n{told}", flush=True)
        (root / "log").unlink(missing_ok=True)
        shutil.rmtree(folder)
    shutil.rmtree(root)
    print(f"{failed} of {count} inputs failed (seed {seed})")
    return failed


if __name__ == "__main__":
    sys.exit(min(1, main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0, sys.argv[3:])))
