"""`make bench`: run the benchmarks, all or those named, and print their tables; figures also go to `build/benchmarks.json`."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import import_module
from pathlib import Path

import torch

NAMES = ("throughput", "overhead", "evaluation", "scale", "cluster", "training", "masks")


def main(names: tuple[str, ...]) -> None:
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(" ".join(f"{name}={value}" for name, value in machine.items()))
    figures = {"machine": machine}
    for name in names:
        figures[name] = import_module(f"tests.benchmarks.{name}").run()
    target = Path("build/benchmarks.json")
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"written to {target}")


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or NAMES)
