"""Retention as it is scheduled: old runs are deleted, then what no committed run names is removed."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from shardlens.flows import log_filters
from shardlens.flows.artifacts import ProgressArtifacts
from shardlens.flows.embedded import flow
from shardlens.flows.parameter_forms import Form
from shardlens.flows.retries import RetryPolicy, worth_retrying
from shardlens.flows.run_names import rename
from shardlens.flows.stages import Retry
from shardlens.pipeline.cli.removed import removed_lines
from shardlens.pipeline.delete import DeleteConfig, DeleteReport, delete
from shardlens.pipeline.gc import GcConfig, GcReport, gc
from shardlens.pipeline.warehouse.ages import size
from shardlens.pipeline.warehouse.layout import WarehouseRoot

log_filters.install()


@dataclass(frozen=True)
class RetentionConfig:
    """What is to stay."""

    _: KW_ONLY
    older_than: str | None = "90d"
    """Delete only runs that were committed longer ago than this, such as 30d."""
    keep: int | None = 10
    """Leave the newest N runs of each dataset and model, however old."""
    names: tuple[str, ...] = ()
    """Delete only runs of these names or patterns, such as 'nightly-*'. Default: all."""
    dataset: str | None = None
    """Delete only runs of this dataset."""
    unfinished: str = "7d"
    """Also remove unfinished runs to which nothing was written for this long."""
    dry_run: bool = False
    """Say what would be removed, and remove nothing."""
    warehouse: WarehouseRoot = "./warehouse"
    """Root of the tables."""

    def __post_init__(self) -> None:
        _ = self.deletion, self.collection

    @property
    def deletion(self) -> DeleteConfig:
        """Which runs to delete."""
        return DeleteConfig(
            "run",
            self.names,
            dataset=self.dataset,
            older_than=self.older_than,
            keep=self.keep,
            dry_run=self.dry_run,
            warehouse=self.warehouse,
        )

    @property
    def collection(self) -> GcConfig:
        """What to remove of the rest."""
        return GcConfig(unfinished=self.unfinished, dry_run=self.dry_run, warehouse=self.warehouse)


@dataclass(frozen=True)
class Retention:
    """Results of the flow `retention`."""

    deleted: DeleteReport
    collected: GcReport


@task(
    name="delete",
    task_run_name="delete old runs",
    retry_condition_fn=worth_retrying,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def delete_runs(config: DeleteConfig) -> DeleteReport:
    """Delete the runs that are old enough and not among the newest."""
    report = delete(config, ProgressArtifacts("runs"))
    _show(report, "deleted", "Runs that were deleted")
    return report


@task(
    name="gc",
    task_run_name="remove what no run names",
    retry_condition_fn=worth_retrying,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def collect(config: GcConfig) -> GcReport:
    """Remove what no committed run names."""
    report = gc(config, ProgressArtifacts("warehouse"))
    _show(report, "collected", "What no committed run named")
    return report


def _show(report: DeleteReport | GcReport, key: str, title: str) -> None:
    """Log what was removed, and publish it as a table if it was anything."""
    for line in removed_lines(report):
        get_run_logger().info("%s", line)
    rows = [
        {"kind": each.kind, "name": each.name, "objects": each.objects, "size": size(each.bytes), "why": each.why}
        for each in report.removed
    ]
    if rows:
        would = ", were this no dry run" if report.dry_run else ""
        create_table_artifact(rows, key, f"{title}{would}: {report.objects} objects, {size(report.bytes)}")


@flow("retention", lambda given: f"retention of {given['config'].dataset or 'all datasets'}")
def retention(
    config: Annotated[RetentionConfig, Form(RetentionConfig)] = RetentionConfig(),
    retry: Retry = RetryPolicy(),  # noqa: B008 - frozen
) -> Retention:
    """Delete old runs with their scores, then remove what killed runs left and dataset versions that no run refers to.

    The latest version of each dataset, and what a run under way needs, stay.

    Args:
        config: What is to stay.
        retry: How often and how long each step is tried.
    """
    deleted = retry.on(delete_runs)(config.deletion)
    collected = retry.on(collect)(config.collection, wait_for=[deleted])
    total = size(deleted.bytes + collected.bytes)
    default_name = f"retention of {config.dataset or 'all datasets'}"
    rename(default_name, f"{default_name}: {total} {'would go' if config.dry_run else 'removed'}")
    return Retention(deleted, collected)
