"""`make bench`: run every benchmark and print its table; figures also go to `build/benchmarks.json`."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import torch

from tests.benchmarks import throughput


def main() -> None:
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    print(" ".join(f"{name}={value}" for name, value in machine.items()))
    figures = {"machine": machine, "throughput": throughput.run()}
    target = Path("build/benchmarks.json")
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"written to {target}")


if __name__ == "__main__":
    main()
