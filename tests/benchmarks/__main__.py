"""`make bench`: run the benchmarks of prediction, or those named; print tables, and write `build/benchmarks.json`."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import torch

from shardlens.pipeline.networks.precision import bf16_speedup

NAMES = ("throughput", "overhead", "device", "evaluation", "scale", "cluster", "masks")
"""Those run when none is named; `training`, of another command, is run by its name, and the networks' tables by theirs."""
TARGET = Path("build/benchmarks.json")
SOFTWARE = ("torch", "torchvision", "ray", "pyarrow", "hotcoco", "pycocotools")


def main(names: tuple[str, ...]) -> None:
    """Run the benchmarks; the figures of each are written when it has ended, beside those of others."""
    machine = {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "bf16_speedup": round(bf16_speedup(), 2),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in SOFTWARE},
    }
    print(" ".join(f"{name}={value}" for name, value in machine.items()), flush=True)
    TARGET.parent.mkdir(exist_ok=True)
    for name in names:
        begun = time.perf_counter()
        figures = import_module(f"tests.benchmarks.{name}").run()
        seconds = round(time.perf_counter() - begun)
        print(f"\n{name}: {seconds} s", flush=True)
        written = json.loads(TARGET.read_text()) if TARGET.exists() else {}
        TARGET.write_text(
            json.dumps({**written, name: {"machine": machine, "seconds": seconds, **figures}}, indent=2) + "\n"
        )
    print(f"written to {TARGET}")


def processor() -> str:
    """Its name, where the system tells it."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    found = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return (found or platform.processor() or platform.machine()).replace(" ", "-")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or NAMES)
