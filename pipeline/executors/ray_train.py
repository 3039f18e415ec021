"""A gang of workers on Ray: one process for each share of a step, started, watched and restarted by Ray Train.

It only wires, and knows nothing of networks: the workers run the loop that the caller gives, the first one writes the
checkpoints, and what comes back is small. Nothing of the run passes through `ray.train.report`, which would hold each
worker up until the controller's next look at it; progress goes through a queue, checkpoints into the warehouse, and
Ray's own storage stays empty. Workers that are restarted resume from the last checkpoint there.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any, Generic, TypeVar

import ray
import ray.train
from ray.exceptions import RayActorError, RayError
from ray.train.torch import TorchConfig, get_device
from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.train.v2.torch.torch_trainer import TorchTrainer
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from shardlens.pipeline.errors import ExecutionError, ShardlensError
from shardlens.pipeline.executors import cluster
from shardlens.pipeline.executors.base import ExecutorConfig, Progress, ProgressListener
from shardlens.pipeline.executors.elastic import ATTEMPT_S, RestartPolicy, RoomPolicy, Wanted

Result = TypeVar("Result")

REPORT_EVERY_S = 0.25
LOOK_EVERY_S = 0.2
FAREWELL_S = 10.0
"""How long a run that was called off may take to end its workers."""

ANYWHERE = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(LOOK_EVERY_S), "RAY_CHDIR_TO_TRIAL_DIR": "0"}
"""How often Ray's controller looks at its workers (2 s by itself, which a short run would notice)."""
ONE_NODE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
"""A cluster of one machine is preempted completely or not at all: the process that watches for it is not started."""


@dataclass
class RayWorker:
    """A worker of a cluster; progress goes to the driver's queue, a few times a second at most."""

    queue: Queue
    rank: int
    world_size: int
    device: str
    _last: float = field(default=0.0)

    def report(self, progress: Progress) -> None:
        """Put progress into the driver's queue; a driver that has gone takes its workers with it.

        Raises:
            ExecutionError: nobody listens any more.
        """
        now = time.monotonic()
        if now - self._last < REPORT_EVERY_S and progress.done < progress.total:
            return
        self._last = now
        try:
            self.queue.put(progress)
        except RayError:
            raise ExecutionError("training was called off: the process that started it has gone") from None


@dataclass(frozen=True)
class Gang(Generic[Result]):
    """Workers that compute together: all of them run, or none."""

    name: str
    loop: Callable[[RayWorker], Result]
    """What each worker does; it travels to them. The first worker's result is the gang's."""
    newest: Callable[[], int | None]
    """Step of the newest complete checkpoint, from which a restarted gang resumes; None before the first."""
    fewest: int
    most: int
    max_failures: int
    """Restarts in a row, without a new checkpoint in between."""

    @property
    def elastic(self) -> bool:
        """Whether the number of workers may change."""
        return self.fewest < self.most


def run_gang(gang: Gang[Result], config: ExecutorConfig, progress: ProgressListener) -> Result:
    """Run the gang on a Ray cluster, one of this machine if no address is given; the first worker's result.

    Raises:
        ShardlensError: what a worker raised, unchanged.
        ExecutionError: the workers cannot be had, or one died.
    """
    with cluster.connect(config.address):
        check_room(gang, config)
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        attempt = min(ATTEMPT_S, config.start_timeout) if gang.elastic else config.start_timeout
        patience = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(attempt)}
        environment = cluster.environment(ANYWHERE | patience | (ONE_NODE if len(nodes) == 1 else {}))
        with environment, tempfile.TemporaryDirectory(prefix="shardlens-train-") as folder:
            queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": _here()})
            over = Event()
            training = _start(gang, config, queue, folder, over)
            try:
                return _listen(training, queue, progress)
            finally:
                over.set()
                queue.shutdown(force=True)  # without which the workers stop too, should they still be at work
                wait([training], FAREWELL_S)


def _start(gang: Gang[Result], config: ExecutorConfig, queue: Queue, folder: str, over: Event) -> Future[Result]:
    """Train in a thread of its own: in the main one Ray would take Ctrl-C over, and not give it back."""
    training: Future[Result] = Future()

    def run() -> None:
        try:
            training.set_result(_fit_again(gang, config, queue, folder, over))
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread, which raises it
            training.set_exception(error)

    Thread(target=run, name="train", daemon=True).start()
    return training


class _Trainer(TorchTrainer):
    """Ray Train's trainer with policies of ours; the seam is Ray's own, though private."""

    def __init__(self, policies: Mapping[str, Any], **arguments: Any) -> None:
        super().__init__(_train, **arguments)
        self._policies = policies

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        return super()._initialize_and_run_controller(**{**arguments, **self._policies})


def _fit_again(gang: Gang[Result], config: ExecutorConfig, queue: Queue, folder: str, over: Event) -> Result:
    """Train; should Ray's controller of the workers die, which they do with it, a new one resumes from the last checkpoint.

    Raises:
        ExecutionError: controllers died more often than workers may, in a row, without a new checkpoint in between.
    """
    deaths, newest = 0, gang.newest()
    while True:
        try:
            with tempfile.TemporaryDirectory(dir=folder) as own:
                return _fit(gang, config, queue, own)
        except RayActorError as error:
            before, newest = newest, gang.newest()
            deaths = deaths + 1 if newest == before else 1
            if over.is_set() or deaths > gang.max_failures:
                raise ExecutionError(
                    f"Ray's controller of the training died {deaths} times ({str(error).strip().splitlines()[-1].strip()}): "
                    "look at the memory of the machine that gave the command, then run the same command again, which "
                    "resumes from the last checkpoint"
                ) from error


def _fit(gang: Gang[Result], config: ExecutorConfig, queue: Queue, folder: str) -> Result:
    wanted = Wanted(gang.newest, config.cpus_per_worker, config.gpus_per_worker, config.start_timeout)
    scaling = ScalingConfig(
        num_workers=(gang.fewest, gang.most) if gang.elastic else gang.most,
        use_gpu=config.gpus_per_worker > 0,
        resources_per_worker=_resources(config),
    )
    failures = FailureConfig(max_failures=gang.max_failures, controller_failure_limit=gang.max_failures)
    policies: dict[str, Any] = {"failure_policy": RestartPolicy(failures, wanted, gang.elastic)}
    trainer = _Trainer(
        policies | ({"scaling_policy": RoomPolicy(scaling, wanted)} if gang.elastic else {}),
        train_loop_config={"loop": gang.loop, "queue": queue},
        scaling_config=scaling,
        torch_config=TorchConfig(backend=backend(config)),
        run_config=RunConfig(
            name=gang.name,
            storage_path=folder,
            failure_config=failures,
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        result: Any = trainer.fit()
    except TrainingFailedError as error:
        raise explain(error) from error
    returned: Result = result.return_value  # what the first worker's `_train` returned
    return returned


def _here() -> NodeAffinitySchedulingStrategy:
    """On the driver's node, whose end is the run's end anyway: progress outlives every other node."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _train(config: dict[str, Any]) -> Any:
    """Be one of the workers."""
    context = ray.train.get_context()
    worker = RayWorker(config["queue"], context.get_world_rank(), context.get_world_size(), str(get_device()))
    return config["loop"](worker)


def _listen(training: Future[Result], queue: Queue, progress: ProgressListener) -> Result:
    """Pass progress on, in the caller's thread, until the training ends."""
    while True:
        ended = bool(wait([training], timeout=LOOK_EVERY_S).done)
        for report in _take(queue):
            progress(report)
        if ended:
            return training.result()


def _take(queue: Queue) -> list[Progress]:
    """What has been put into the queue; nothing if its process is gone, which the workers notice as well."""
    try:
        reports: list[Progress] = queue.get_nowait_batch(queue.qsize())
    except RayError:
        return []
    return reports


def backend(config: ExecutorConfig) -> str:
    """What exchanges gradients: NCCL where each worker has a GPU of its own, which it insists on, else gloo."""
    return "nccl" if config.gpus_per_worker >= 1 else "gloo"


def _resources(config: ExecutorConfig) -> dict[str, float]:
    """What Ray reserves for a worker."""
    gpus = {"GPU": config.gpus_per_worker} if config.gpus_per_worker else {}
    return {"CPU": config.cpus_per_worker, **gpus}


def check_room(gang: Gang[Any], config: ExecutorConfig) -> None:
    """Refuse workers that the cluster never has room for; Ray would wait for it to grow.

    Raises:
        ExecutionError: it holds fewer, and does not grow.
    """
    room = cluster.holds(config.cpus_per_worker, config.gpus_per_worker)
    if room < gang.fewest and not cluster.grows():
        raise ExecutionError(
            f"{gang.fewest} workers of {config.cpus_per_worker:g} CPU and {config.gpus_per_worker:g} GPU asked for, "
            f"but the cluster can hold {room} ({cluster.describe()}): lower --workers, --cpus-per-worker or "
            "--gpus-per-worker, or join a larger cluster"
        )


def explain(error: TrainingFailedError) -> ShardlensError:
    """The error of ours that ended the training, else one that says which worker failed and how."""
    failures: dict[int, Exception] = dict(getattr(error, "worker_failures", {}))
    for failure in failures.values():
        if isinstance(failure, ShardlensError):
            return failure
    for rank, failure in failures.items():
        text = str(failure).strip().partition("\n")[0]
        if isinstance(getattr(failure, "health_check_failure", failure), RayError):
            return ExecutionError(
                f"training worker {rank} died ({text}): memory may be short; use a smaller --batch-size or --cache-mb, or "
                "fewer workers on a machine, and run the same command again"
            )
        return ExecutionError(f"training worker {rank} failed: {type(failure).__name__}: {text}")
    cause: Any = getattr(error, "controller_failure", error)
    if type(cause).__name__ == "WorkerGroupStartupTimeoutError":
        return ExecutionError(
            f"the cluster made no room for {cause.num_workers} workers in time: others hold it, or it grows too slowly; wait "
            "for them, use fewer --workers, or give a longer --start-timeout"
        )
    return ExecutionError(f"Ray could not run the training: {type(cause).__name__}: {str(cause).strip()}")
