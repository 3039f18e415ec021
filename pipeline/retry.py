"""Retrying the quarantined images of a run: their rows replace their failures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pyarrow.compute as pc

from shardlens.pipeline import storage
from shardlens.pipeline.errors import ConfigError, RunError
from shardlens.pipeline.evaluate import EvaluateConfig, evaluate
from shardlens.pipeline.executors.base import Executor, Placement, ProgressListener, no_progress
from shardlens.pipeline.inference.options import InferenceConfig
from shardlens.pipeline.inference.shard_results import ShardResults, check_quarantined
from shardlens.pipeline.inference.shard_work import ShardWork
from shardlens.pipeline.networks.resolve import NetworkConfig, trusted
from shardlens.pipeline.predict import Job, PredictConfig, PredictReport, prepare, report
from shardlens.pipeline.warehouse import runs, tables
from shardlens.pipeline.warehouse.layout import Warehouse
from shardlens.pipeline.warehouse.runs import ShardParts


def retry_quarantined(
    warehouse: str,
    run: str,
    executor: Executor,
    progress: ProgressListener = no_progress,
    max_quarantined: float | None = None,
    model: str | None = None,
) -> PredictReport:
    """Predict only the quarantined images of a run again, with the run's own settings.

    Where no row changes, nothing is touched; where rows change, a run that was scored is scored again.

    Args:
        max_quarantined: share that may stay quarantined in a run not committed yet; None for the run's own setting.
        model: the run's model if it is outside the zoo (package.module:SPEC): its module is imported only if the user
            names it, never because the run's record does.

    Raises:
        ConfigError: the record names a model outside the zoo, or another one than `model`.
        RunError: the run does not exist, was imported, or has not been predicted to its end.
    """
    begun = time.perf_counter()
    record = runs.find(Warehouse(warehouse), run)
    if "config" not in record.origin:
        raise RunError(f"run {run!r} was imported, not predicted here: there is no model to retry its images with")
    config = _config(record.origin["config"], warehouse, run, model)
    job = prepare(config, Placement(record.settings["device"], record.settings["threads"]))
    first = (
        runs.finished(record) if record.commit is None else {p.shard: p for p in record.parts} | runs.finished(record)
    )
    if len(first) != record.shards:
        raise RunError(
            f"run {run!r} has {len(first)} of {record.shards} shards: finish it first, with the command that began it"
        )
    generation, shards = runs.to_retry(first, record.parts)
    results = ShardResults(job.stage, job.shards.images.num_rows, progress, first)
    results.run(executor, _quarantined(job, {shard: first[shard] for shard in shards}, generation))
    parts = list(results.parts.values())
    if record.commit is None:
        check_quarantined(record, parts, config.max_quarantined if max_quarantined is None else max_quarantined)
        runs.commit(record, parts, results.figures(begun))
        return report(job, results, begun)
    if runs.same_rows(record.parts, parts):
        return report(job, results, begun)
    scored = storage.exists(storage.join(record.warehouse.metrics(record.dataset, run), "metrics.parquet"))
    runs.recommit(record, parts, record.commit.report)
    rescored = evaluate(EvaluateConfig(run, warehouse=warehouse), executor, progress).tasks if scored else ()
    return replace(report(job, results, begun), rescored=rescored)


def _config(asked: Mapping[str, Any], warehouse: str, run: str, model: str | None) -> PredictConfig:
    """The run's configuration, as its record has it."""
    network = NetworkConfig(**_tuples(asked["network"]))
    recorded = trusted(network.model, f"the record of run {run!r}", model) if network.model else None
    if model not in {None, recorded}:
        raise ConfigError(f"run {run!r} was predicted by {recorded}, not {model}: leave --model out")
    nested = {
        "network": network,
        "inference": InferenceConfig(**_tuples(asked.get("inference", {}))),
    }
    own = {name: value for name, value in asked.items() if name not in {"device", "threads"}}  # of version 0.1
    return PredictConfig(**{**own, **nested, "warehouse": warehouse, "run": run})


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _quarantined(job: Job, first: Mapping[int, ShardParts], generation: int) -> Iterator[ShardWork]:
    """The shards with quarantined images, those images alone."""
    folder = job.record.warehouse.outcomes(job.record.dataset, job.record.name)
    for index, parts in sorted(first.items()):
        if parts.quarantined:
            outcomes = tables.from_bytes(storage.read(storage.join(folder, parts.outcomes.name)))
            bad = outcomes.filter(pc.not_equal(outcomes["status"], "ok"))["image_id"].to_pylist()
            yield ShardWork(job.shards[index].only(frozenset(bad)), generation=generation, base=parts)
