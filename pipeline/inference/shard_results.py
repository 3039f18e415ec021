"""The results of a run's shards: their parts and the time that they took; shards that kill workers are bisected."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ExecutionError, RunError
from shardlens.pipeline.executors.base import Done, Executor, Lost, Progress, ProgressListener, Stage
from shardlens.pipeline.inference.bisection import isolate
from shardlens.pipeline.inference.shard_work import ShardReport, ShardWork
from shardlens.pipeline.warehouse import tables
from shardlens.pipeline.warehouse.runs import RunRecord, ShardParts

STAGES = ("fetch", "decode", "wait", "forward", "postprocess_wait", "rows", "write")
"""Where the time of a worker goes, in seconds that overlap: wait: the device waits for images, postprocess_wait: it waits
for rows."""
SHOWN = 5
"""Quarantined images whose reasons an error message lists."""


class ShardResults:
    """Collects the workers' results; images that kill workers are isolated, and their shards run again without them."""

    def __init__(
        self,
        stage: Stage[ShardWork, ShardReport],
        total: int,
        progress: ProgressListener,
        parts: Mapping[int, ShardParts],
    ) -> None:
        self.stage = stage
        self.total = total
        self.progress = progress
        self.parts = dict(parts)
        self.resumed = len(parts)
        self.images = 0
        """Predicted in this attempt."""
        self.carried = 0
        """Taken over from an earlier run in this attempt."""
        self.seconds: Counter[str] = Counter()
        self._show()

    def run(self, executor: Executor, works: Iterable[ShardWork]) -> None:
        """Run `works`, then what was lost, without the images to blame.

        Raises:
            ExecutionError: a shard kills its workers though each of its images survives alone.
        """
        lost = self._take(executor, works)
        again = [replace(item.item, failures=isolate(executor, self.stage, item.item.to_predict)) for item in lost]
        for item in self._take(executor, again):
            raise ExecutionError(
                f"shard {item.item.shard.index} killed its worker {item.attempts} times ({item.reason}), though each of its "
                "images alone did not: memory may be short; use fewer workers or a smaller --batch-size"
            )

    def _take(self, executor: Executor, works: Iterable[ShardWork]) -> list[Lost[ShardWork]]:
        lost: list[Lost[ShardWork]] = []
        for outcome in executor.map(self.stage, works):
            if isinstance(outcome, Lost):
                lost.append(outcome)
            else:
                self._add(outcome)
        return lost

    def _add(self, outcome: Done[ShardWork, ShardReport]) -> None:
        parts = outcome.value.parts
        assert parts is not None, "only probes publish nothing"
        self.parts[parts.shard] = parts
        self.images += outcome.value.images
        self.carried += outcome.value.carried
        self.seconds.update(outcome.value.seconds)
        self._show()

    def _show(self) -> None:
        done = sum(parts.outcomes.rows for parts in self.parts.values())
        bad = sum(parts.quarantined for parts in self.parts.values())
        self.progress(Progress("predict", done, self.total, detail=f"{bad} quarantined" if bad else ""))

    def figures(self, begun: float) -> dict[str, Any]:
        """Times of this attempt."""
        seconds = time.perf_counter() - begun
        of_device = sum(self.seconds[stage] for stage in ("wait", "forward", "postprocess_wait"))
        return {
            "seconds": round(seconds, 3),
            "images_per_second": round(self.images / seconds, 3),
            "device_wait": round(self.seconds["wait"] / of_device, 4) if of_device else 0.0,
            "stages": {stage: round(self.seconds[stage], 3) for stage in STAGES},
        }


def check_quarantined(record: RunRecord, parts: Sequence[ShardParts], allowed: float) -> None:
    """Refuse to commit when too many images failed.

    Raises:
        RunError: the share is above `allowed`; the parts stay, so that nothing has to be predicted again.
    """
    counts = [(p.quarantined, p.outcomes.rows) for p in parts]
    bad, images = sum(q for q, _ in counts), sum(n for _, n in counts)
    if bad > allowed * images:
        reasons = "".join(f"\n  {reason}" for reason in _reasons(record, parts))
        more = f"\n  ... and {bad - SHOWN} more" if bad > SHOWN else ""
        raise RunError(
            f"run {record.name!r}: {bad} of {images} images are quarantined ({bad / images:.1%}), more than the "
            f"{allowed:.1%} of --max-quarantined:{reasons}{more}\n"
            "Everything is written, but the run is not committed, so queries do not show it yet. To commit it without those "
            "images, give the same command with a larger --max-quarantined; if their files were repaired, try them again "
            f"with 'shardlens predict --retry-quarantined {record.name}'"
        )


def _reasons(record: RunRecord, parts: Sequence[ShardParts]) -> Iterator[str]:
    """Why the first few images are quarantined."""
    folder = record.warehouse.outcomes(record.dataset, record.name)
    shown = 0
    for part in (part for part in parts if part.quarantined):
        table = tables.from_bytes(storage.read(storage.join(folder, part.outcomes.name)), ["status", "message"])
        for row in table.to_pylist():
            if row["status"] == "quarantined" and shown < SHOWN:
                shown += 1
                yield row["message"]
        if shown == SHOWN:
            return
