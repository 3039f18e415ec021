"""Ends what an embedded Ray cluster leaves behind: runs as a process of its own, until its standard input closes.

That happens when the driver closes it, or dies. Ray's own agents notice a killed driver too, but then report for a
minute to a server that died with it; and nobody removes the cluster's folder. Started by path: imports nothing of ours.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROUNDS = 50
PAUSE_S = 0.1


def users(folder: str) -> Iterator[int]:
    """Ray's processes that have a file below `folder` open (their logs lie there); none where there is no /proc.

    The driver and whatever it has forked may have one open as well.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended, or is not ours
            command = (process / "cmdline").read_bytes()
            named = command.startswith(b"ray::") or folder.encode() in command
            if named and any(os.readlink(file).startswith(folder + os.sep) for file in (process / "fd").iterdir()):
                yield int(process.name)


def clear(folder: str) -> None:
    """Kill the users of `folder` until there are none, then remove it."""
    for _ in range(ROUNDS):
        processes = list(users(folder))
        for process in processes:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        if not processes and not os.path.exists(folder):
            return
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    clear(sys.argv[1])
