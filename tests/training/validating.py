"""Validate as one of three, then of two plain processes: `python -m tests.training.validating JOBS RANK FOLDER`."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from shardlens import models
from shardlens.pipeline.training.job import TrainJob
from shardlens.pipeline.training.validation import Validator


def validate(job: TrainJob, rank: int = 0, world_size: int = 1) -> list[Any]:
    """The figures, and all rows."""
    torch.manual_seed(0)
    network = models.build(job.config.model, len(job.labels), job.options)
    validator = Validator(job, job.spec.input_rule(network), torch.device("cpu"), "fp32")
    return [validator(network, rank, world_size), list(validator.rows)]


if __name__ == "__main__":
    jobs, rank, folder = pickle.loads(Path(sys.argv[1]).read_bytes()), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    for world_size in (3, 2):
        if rank < world_size:
            dist.init_process_group(
                "gloo", init_method=f"file://{folder}/store{world_size}", rank=rank, world_size=world_size
            )
            for job in jobs:
                print(json.dumps(validate(job, rank, world_size)))
            dist.destroy_process_group()
