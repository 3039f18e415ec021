"""Object detection and image segmentation over whole datasets: sharded inference, training, evaluation, SQL.

The functions below are the stages, the same ones that the command line runs::

    import shardlens

    shardlens.ingest(shardlens.IngestConfig("shapes", images="data/images", annotations="data/instances.json"))
    config = shardlens.PredictConfig("shapes", network=shardlens.NetworkConfig(weights="checkpoints/detector"))
    with shardlens.open_executor() as executor:
        report = shardlens.predict(config, executor)
    shardlens.evaluate(shardlens.EvaluateConfig(report.run))
    table = shardlens.query("./warehouse", "SELECT category, count(*) FROM predictions GROUP BY ALL")

Each name is imported at its first use, so that `import shardlens` itself does not load torch. What is listed in
`__all__` is the public interface; `shardlens.models`, `shardlens.pipeline` and `shardlens.flows` hold what is behind it.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardlens.pipeline.delete import DeleteConfig, DeleteReport, delete
    from shardlens.pipeline.errors import ShardlensError
    from shardlens.pipeline.evaluate import EvaluateConfig, Evaluation, evaluate
    from shardlens.pipeline.executors.base import ExecutorConfig
    from shardlens.pipeline.executors.opening import open_executor
    from shardlens.pipeline.gc import GcConfig, GcReport, gc
    from shardlens.pipeline.inference.config import InferenceConfig, PredictConfig
    from shardlens.pipeline.ingest import IngestConfig, ingest
    from shardlens.pipeline.networks.config import NetworkConfig
    from shardlens.pipeline.predict import PredictReport, predict
    from shardlens.pipeline.query import connect, query
    from shardlens.pipeline.train import TrainReport, train
    from shardlens.pipeline.training.config import TrainConfig
    from shardlens.pipeline.warehouse.datasets import Dataset

_ROOMS = {
    "pipeline.delete": ("DeleteConfig", "DeleteReport", "delete"),
    "pipeline.errors": ("ShardlensError",),
    "pipeline.evaluate": ("EvaluateConfig", "Evaluation", "evaluate"),
    "pipeline.executors.base": ("ExecutorConfig",),
    "pipeline.executors.opening": ("open_executor",),
    "pipeline.gc": ("GcConfig", "GcReport", "gc"),
    "pipeline.inference.config": ("InferenceConfig", "PredictConfig"),
    "pipeline.ingest": ("Dataset", "IngestConfig", "ingest"),
    "pipeline.networks.config": ("NetworkConfig",),
    "pipeline.predict": ("PredictReport", "predict"),
    "pipeline.query": ("connect", "query"),
    "pipeline.train": ("TrainReport", "train"),
    "pipeline.training.config": ("TrainConfig",),
}
_HOME = {name: module for module, names in _ROOMS.items() for name in names}

__all__ = [
    "Dataset",
    "DeleteConfig",
    "DeleteReport",
    "EvaluateConfig",
    "Evaluation",
    "ExecutorConfig",
    "GcConfig",
    "GcReport",
    "InferenceConfig",
    "IngestConfig",
    "NetworkConfig",
    "PredictConfig",
    "PredictReport",
    "ShardlensError",
    "TrainConfig",
    "TrainReport",
    "__version__",
    "connect",
    "delete",
    "evaluate",
    "gc",
    "ingest",
    "open_executor",
    "predict",
    "query",
    "train",
]

__version__ = version("shardlens")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'shardlens' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"shardlens.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
