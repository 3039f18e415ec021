"""Scoring 5,000 images, 36,000 boxes of truth and 500,000 predictions, from Parquet to tables; and 50,000 masks.

pycocotools' engine stands behind the same reader, so that the two differ in the counting alone.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.opening import open_executor
from tests.benchmarks.alone import alone, peak

SIZES = {"bbox": (5_000, 36_000, 500_000), "segm": (500, 3_600, 50_000)}
"""Images, objects of the truth, predictions."""
ROUNDS = 3


def score(warehouse: str, engine: str) -> dict[str, float]:
    """Seconds from Parquet to tables, and the peak of the process; what an earlier evaluation kept is thrown away."""
    for folder in ("metrics", "curves", "partials"):
        shutil.rmtree(Path(warehouse, folder), ignore_errors=True)
    with open_executor() as executor:
        begun = time.perf_counter()
        found = evaluate(EvaluateConfig("r", engine=engine, warehouse=warehouse), executor)
        seconds = time.perf_counter() - begun
    means = {
        f"{task} {metric}": value
        for task, metric, value in found.summary()
        if metric in {"AP", "AR100"} and value is not None
    }
    return {"seconds": seconds, "GB": peak(), **means}


def run() -> dict[str, dict[str, float]]:
    """Print both engines' times."""
    from tests.benchmarks import synthetic  # which brings torch: no memory of what is measured

    found = {}
    for task, sizes in SIZES.items():
        rounds: dict[str, list[dict[str, float]]] = {"hotcoco": [], "pycocotools": []}
        with tempfile.TemporaryDirectory() as folder:
            alone(synthetic.make, folder, task, *sizes)
            for turn in range(ROUNDS):
                for engine in list(rounds)[:: -1 if turn % 2 else 1]:
                    rounds[engine].append(alone(score, folder, engine, forked=False))
        fast, slow = ({k: statistics.median(r[k] for r in each) for k in each[0]} for each in rounds.values())
        assert {k: v for k, v in fast.items() if " " in k} == {k: v for k, v in slow.items() if " " in k}
        print(f"\n{task}: {sizes[0]:,} images, {sizes[1]:,} objects, {sizes[2]:,} predictions, median of {ROUNDS}")
        print(
            f"  ours {fast['seconds']:.2f} s, {fast['GB']:.2f} GB; pycocotools {slow['seconds']:.2f} s, {slow['GB']:.2f} GB;"
        )
        print(f"  {slow['seconds'] / fast['seconds']:.1f} times as fast, the same figures: {fast}")
        found |= {f"{task}, hotcoco": fast, f"{task}, pycocotools": slow}
    return found
