"""Train as a command would, in a process that a test can kill: `python -m tests.training.driving CONFIG`."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from shardlens.pipeline.train import train

if __name__ == "__main__":
    report = train(pickle.loads(Path(sys.argv[1]).read_bytes()), lambda progress: print(progress.done, flush=True))
    print(report.sha256, report.resumed_from, flush=True)
