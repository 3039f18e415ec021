"""Prediction over a dataset: resolve, plan, run the missing shards, isolate images that kill workers, commit."""

from __future__ import annotations

import time
from collections.abc import Container, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from typing import Any, cast

from shardlens.pipeline import storage
from shardlens.pipeline.errors import RunError
from shardlens.pipeline.executors.base import Executor, Placement, ProgressListener, no_progress
from shardlens.pipeline.images.policy import DecodePolicy
from shardlens.pipeline.images.shards import Plan, plan
from shardlens.pipeline.inference.config import Precision, PredictConfig
from shardlens.pipeline.inference.earlier_run import CARRIED_FROM, EarlierRun, newest, open_earlier
from shardlens.pipeline.inference.fingerprint import counted
from shardlens.pipeline.inference.options import resolve_plan
from shardlens.pipeline.inference.shard_results import ShardResults, check_quarantined
from shardlens.pipeline.inference.shard_work import ShardWork
from shardlens.pipeline.inference.worker import PredictStage
from shardlens.pipeline.networks.labels import LabelMap, match
from shardlens.pipeline.networks.precision import resolve_precision
from shardlens.pipeline.networks.resolve import Network, resolve
from shardlens.pipeline.storage.uris import normalize
from shardlens.pipeline.warehouse import runs
from shardlens.pipeline.warehouse.datasets import Dataset, require_images
from shardlens.pipeline.warehouse.layout import Warehouse, check_name
from shardlens.pipeline.warehouse.runs import RunRecord
from shardlens.pipeline.warehouse.tables import digest

__all__ = ["Job", "PredictConfig", "PredictReport", "predict", "prepare", "report"]

NO_ROWS = frozenset({"run", "warehouse", "max_quarantined", "sha256", "image_timeout"})
"""Settings that cannot change a row."""
RESOLVED = frozenset(
    {"dataset", "network", "inference", "max_pixels", "decode_scale", "value_range", "accept_missing_end"}
)
"""Settings that count through what they are resolved to: dataset version, `Network`, `InferencePlan`, `DecodePolicy`."""
RESOLVED_NETWORK = frozenset({"model", "option", "weights", "labels", "score_threshold"})
RESOLVED_INFERENCE = frozenset(
    {
        "tile",
        "overlap",
        "tta",
        "ensemble",
        "threshold",
        "fill_holes",
        "min_area",
        "largest_component",
        "components",
    }
)
ALWAYS = frozenset({"split", "shard_size", "batch_size", "precision", "compiled"})
"""Settings that are recorded at their defaults too; all others count where they differ from their defaults."""


@dataclass(frozen=True)
class PredictReport:
    """The result of a run."""

    run: str
    dataset: str
    dataset_version: str
    images: int
    predictions: int
    quarantined: int
    precision: str
    """fp32, bf16 or fp16."""
    resumed_shards: int
    """Shards that an earlier attempt had finished."""
    seconds: float
    images_per_second: float
    """Of this attempt; 0 if nothing was left to do."""
    device_wait: float
    """Fraction of the workers' time in which the device waited for images."""
    stages: Mapping[str, float]
    """Seconds of all workers by stage, which overlap: fetch, decode, wait (device waits for images), forward,
    postprocess_wait (device waits for rows), rows, write."""
    unmatched_labels: tuple[str, ...]
    """Labels of the model that match no category; their rows have no category id."""
    uri: str
    """Folder of the prediction parts."""
    rescored: tuple[str, ...] = ()
    """Tasks that a retry scored again, since rows have changed."""
    notes: tuple[str, ...] = ()
    """How the weights were read, where their file is not laid out as the network is."""
    carried: int = 0
    """Images whose rows were taken over from an earlier run instead of being predicted."""
    carried_from: str = ""
    """Name of that run."""
    predicted: int = 0
    """Images that this attempt predicted."""

    @property
    def is_unchanged(self) -> bool:
        """Whether the run was complete before, so that nothing was written."""
        return self.predicted == self.carried == 0

    @property
    def carried_over(self) -> str:
        """How much was predicted and how much was not; empty where all was predicted."""
        if not self.carried:
            return ""
        return f"{self.predicted:,} predicted, {self.carried:,} unchanged and carried over from run {self.carried_from}"


@dataclass(frozen=True)
class Job:
    """A prepared run: what the workers need, and the plan."""

    record: RunRecord
    stage: PredictStage
    shards: Plan
    labels: LabelMap
    earlier: EarlierRun = field(default_factory=EarlierRun)
    """What need not be predicted."""

    def works(self, before: Container[int]) -> Iterator[ShardWork]:
        """What the workers have to do; the shards of `before` are there."""
        for shard in self.shards:
            if shard.index not in before:
                yield ShardWork(shard, carried=self.earlier.of(shard))


def prepare(config: PredictConfig, placement: Placement = Placement()) -> Job:  # noqa: B008 - frozen
    """Resolve dataset, network, labels and plan, and begin or resume the run.

    Args:
        placement: what the workers compute on, as their executor says.

    Raises:
        DatasetError, ModelError, WeightsError, ConfigError: what was asked for is not there or does not fit together.
        RunError: the run's name is taken by other settings.
    """
    warehouse = Warehouse(config.warehouse)
    known, _, version = config.dataset.partition("@")
    dataset = Dataset.open(warehouse, known, version or None)
    network = resolve(config.network, checkpoints=warehouse.path("checkpoints"))
    inference = resolve_plan(config.inference, network)
    labels = match(network.labels, dataset.categories)
    shards = plan(dataset.images, config.shard_size, config.split)
    require_images(shards.images, dataset.name)
    policy = DecodePolicy(
        max_pixels=config.max_pixels,
        scale=config.decode_scale,
        value_range=config.value_range,
        accept_missing_end=config.accept_missing_end,
        image_timeout=config.image_timeout,
    )
    settings = {
        **_counted(config),
        **network.identity(),
        **inference.identity(),
        "images": digest(dataset.images.select(["image_id", "file_name", "width", "height"])),
        "threads": placement.threads,
        "device": placement.device,
        "memory_format": "channels_last",
        "decode": counted(policy, always=("max_pixels", "scale", "exif"), without=NO_ROWS),
    }
    asked = RunRecord(warehouse, "asked", dataset.name, dataset.version, settings, len(shards), {})
    plain = network.model.partition(":")[0].rpartition(".")[2]  # of package.module:SPEC, the module
    name = check_name(config.run or f"{plain}-{asked.fingerprint[:8]}", "run")
    begun = runs.setting(warehouse.run(name), "precision") if config.precision == "auto" else None
    precision = begun or resolve_precision(config.precision, placement.device)
    resolved = replace(config, run=name, precision=cast(Precision, precision))
    origin = {"config": _as_resolved(resolved, dataset, network), "software": _software()}
    asked = replace(asked, name=name, settings={**settings, "precision": precision}, origin=origin)
    record = _begun(asked if config.full else _with_earlier(asked))
    dataset.check_stays()
    stage = PredictStage(
        record=record,
        network=network,
        plan=inference,
        labels=labels,
        policy=policy,
        precision=precision,
        batch_size=config.batch_size,
        placement=placement,
        compiled=config.compiled,
    )
    return Job(record, stage, shards, labels, open_earlier(record, shards.images, labels))


def _with_earlier(asked: RunRecord) -> RunRecord:
    """The run that shall begin, with the name of the one that it takes rows from, if there is one."""
    begun = storage.exists(storage.join(asked.folder, "run.json"))
    earlier = None if begun else newest(asked)
    return asked if earlier is None else replace(asked, origin={**asked.origin, CARRIED_FROM: earlier})


def _begun(record: RunRecord) -> RunRecord:
    """Begin or resume the run.

    Raises:
        RunError: the name is taken by a run with other settings, or of another version of the dataset.
    """
    try:
        return runs.begin(record)
    except RunError:
        there = runs.find(record.warehouse, record.name)
        if there.dataset != record.dataset or there.dataset_version == record.dataset_version:
            raise
        pinned = f"{there.dataset}@{there.dataset_version}"
        begun = "was begun on" if there.commit is None else "holds the predictions of"
        others = runs.differing(
            *({k: v for k, v in run.settings.items() if k != "images"} | {"shards": 0} for run in (there, record))
        )
        raise RunError(
            f"run {record.name!r} {begun} {pinned}, and the dataset is at version {record.dataset_version} now"
            + (f"; other settings differ too:\n{others}\n" if others else ": ")
            + (
                f"to resume it, name that version: 'shardlens predict {pinned} --run {record.name}' with the options of then; "
                if there.commit is None
                else ""
            )
            + f"to predict version {record.dataset_version}, give another --run name"
        ) from None


def _counted(config: PredictConfig) -> dict[str, Any]:
    """What of the configuration itself belongs into the fingerprint; nested settings stand under their field's name."""
    nested = {
        "network": counted(config.network, without=RESOLVED_NETWORK | NO_ROWS),
        "inference": counted(config.inference, without=RESOLVED_INFERENCE | NO_ROWS),
    }
    own = counted(config, always=ALWAYS, without=RESOLVED | NO_ROWS)
    return own | {name: settings for name, settings in nested.items() if settings}


def _as_resolved(config: PredictConfig, dataset: Dataset, network: Network) -> dict[str, Any]:
    """The configuration that gives the same run from another folder, on another machine, after another ingest."""
    files = set(network.spec.text_options)
    option = tuple(f"{k}={normalize(v) if k in files else v}" for k, v in config.network.options.items())
    labels = config.network.labels and normalize(config.network.labels)
    asked = replace(config.network, model=network.model, option=option, weights=network.weights, labels=labels)
    inference = replace(config.inference, ensemble=tuple(normalize(uri) for uri in config.inference.ensemble))
    resolved = replace(config, network=asked, inference=inference)
    return asdict(replace(resolved, dataset=f"{dataset.name}@{dataset.version}"))


def _software() -> dict[str, str]:
    return {name: version(name) for name in ("shardlens", "torch", "torchvision", "numpy", "pillow", "pyarrow")}


def predict(config: PredictConfig, executor: Executor, progress: ProgressListener = no_progress) -> PredictReport:
    """Predict a dataset, or what an interrupted attempt left of it, and commit the run.

    Raises:
        ShardlensError: see `prepare`; also a store that stays down, and more quarantined images than are allowed (after
            everything else has been written).
    """
    begun = time.perf_counter()
    job = prepare(config, executor.placement)
    before = runs.present(job.record)
    results = ShardResults(job.stage, job.shards.images.num_rows, progress, before)
    results.run(executor, job.works(before))
    if job.record.commit is None:
        check_quarantined(job.record, list(results.parts.values()), config.max_quarantined)
        runs.commit(job.record, results.parts.values(), {**results.figures(begun), **_carried(job, results)})
    elif results.images or results.carried:  # parts of a committed run were lost, and have been predicted again
        runs.recommit(job.record, results.parts.values(), job.record.commit.report)
    return report(job, results, begun)


def _carried(job: Job, results: ShardResults) -> dict[str, Any]:
    """What this attempt took over, and from where; nothing of a run that predicts all."""
    return {CARRIED_FROM: job.earlier.record.name, "carried": results.carried} if job.earlier.record else {}


def report(job: Job, results: ShardResults, begun: float) -> PredictReport:
    """The report of a run."""
    parts = results.parts.values()
    figures = results.figures(begun)
    record = job.record
    return PredictReport(
        run=record.name,
        dataset=record.dataset,
        dataset_version=record.dataset_version,
        images=sum(p.outcomes.rows for p in parts),
        predictions=sum(p.predictions.rows for p in parts),
        quarantined=sum(p.quarantined for p in parts),
        precision=record.settings["precision"],
        resumed_shards=results.resumed,
        seconds=figures["seconds"],
        images_per_second=figures["images_per_second"],
        device_wait=figures["device_wait"],
        stages=figures["stages"],
        unmatched_labels=job.labels.unmatched,
        notes=tuple(note for network in (job.stage.network, *job.stage.plan.ensemble) for note in network.notes),
        uri=record.warehouse.predictions(record.dataset, record.name),
        predicted=results.images,
        **_carried(job, results),
    )
