"""Train as one rank of several plain processes, without Ray: `python -m tests.training.ranks JOB RANK WORLD STORE`."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import torch.distributed as dist

from shardlens.pipeline.training.loop import LocalWorker, fit

if __name__ == "__main__":
    job, rank, world, store = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    trained = fit(pickle.loads(Path(job).read_bytes()), LocalWorker(rank=rank, world_size=world))
    print(trained.sha256)
    dist.destroy_process_group()
