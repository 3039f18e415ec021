"""The Ray cluster that stages run on: one that is there already, or one embedded for as long as it is needed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import ray
from ray._private import ray_constants

from shardlens.pipeline.errors import ExecutionError
from shardlens.pipeline.executors import authentication, keeper, malloc
from shardlens.pipeline.executors.cores import usable_cores
from shardlens.pipeline.executors.reachable import check_reachable

OBJECT_STORE = 128 << 20
"""Bytes for what is too large to travel in a message; stages send descriptions and summaries only."""
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""For the cluster's processes what `_loopback_alone` is for this one: the variable that Ray reads when it is imported."""
ANSWER_S = 10.0
"""How long a cluster's address may take to accept a connection. Ray itself would wait for minutes."""


@contextmanager
def connect(address: str | None = None) -> Iterator[bool]:
    """Connect to the cluster at `address` or RAY_ADDRESS; without either, start one that lives as long as the context.

    A Ray that this process has initialised already is used as it is. An embedded cluster belongs to the thread that
    starts it, which has to live as long: the kernel ends Ray's processes with that thread.

    Yields:
        Whether the cluster is embedded, and so has this machine alone.

    Raises:
        ExecutionError: nothing answers there, or no cluster can be started.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if ray.is_initialized():
        yield False
        return
    with _own_sigterm() as take_over:
        if address == "local":
            with _embedded():
                take_over()
                yield True
        else:
            _join(address)
            take_over()
            try:
                yield False
            finally:
                ray.shutdown()


@contextmanager
def _own_sigterm() -> Iterator[Callable[[], None]]:
    """SIGTERM ends the program as without Ray, but Ray is shut down first: its threads would abort the process.

    Yields:
        What to call once Ray is initialized, which sets a handler of its own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield _nothing
        return
    before = signal.getsignal(signal.SIGTERM)
    own = _terminate if before == signal.SIG_DFL else before

    def take_over() -> None:
        signal.signal(signal.SIGTERM, own)

    try:
        yield take_over
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    """Unwind, and exit with the status that shells give a process that SIGTERM ended."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    raise SystemExit(128 + number)


def _nothing() -> None:
    """Leave the handlers of signals, which are the main thread's."""


def _join(address: str) -> None:
    remedy = "start one with 'ray start --head', or give no address (and no RAY_ADDRESS) to start one for the command"
    try:
        if address != "auto":
            host, port = _host_and_port(address)
            check_reachable(host, port, ANSWER_S)
        authentication.prepare_to_join(address)
        ray.init(address, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = str(error).strip() or type(error).__name__
        raise ExecutionError(f"no Ray cluster can be joined at {address!r} ({reason}): {remedy}") from error


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("expected HOST:PORT, ray://HOST:PORT or auto")
    return host.strip("[]"), int(port)


@contextmanager
def _embedded() -> Iterator[None]:
    try:
        authentication.guard_token()
        folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp" if os.path.isdir("/tmp") else None)
    except OSError as error:
        raise ExecutionError(f"no Ray cluster can be started, its files cannot be written: {error}") from error
    with _kept(folder), authentication.mode_restored():
        try:
            _start(folder)
            yield
        finally:
            ray.shutdown(wait_for_processes=True)


def _start(folder: str) -> None:
    # The folder is short, for the sockets in it have paths of 107 bytes at most, and ours alone: Ray makes its
    # own writable by everyone, and would also leave the address there for any other program's ray.init() to find.
    try:
        with warnings.catch_warnings(), environment(malloc.AT_START | LOOPBACK), _loopback_alone():
            warnings.simplefilter("ignore", ResourceWarning)  # Ray leaves its children's log files to the collector
            ray.init(
                "local",
                num_cpus=_cores(),
                include_dashboard=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE,
                _temp_dir=os.path.join(folder, "r"),
                _system_config={
                    "prestart_worker_first_driver": False,  # actors only: no workers to spare
                    "task_events_report_interval_ms": 0,  # events of every call, for a dashboard that is not there
                },
            )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ExecutionError(f"no Ray cluster can be started on this machine: {error}") from error


@contextmanager
def _loopback_alone() -> Iterator[None]:
    """Let the node that is started listen on 127.0.0.1 alone, as Ray does where it supports one machine only.

    Ray replaces a loopback address that it is given by the machine's own one, unless this constant is false.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set variables for Ray and the processes that it starts; those that the user has set stay as they are."""
    ours = {key: value for key, value in settings.items() if key not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for key in ours:
            os.environ.pop(key, None)


def _cores() -> int | None:
    """Cores that this process may use; None lets Ray count them, which knows of containers' quotas."""
    allowed = usable_cores()
    return None if allowed == os.cpu_count() else allowed


@contextmanager
def _kept(folder: str) -> Iterator[None]:
    """Whatever happens to this process, no process of the cluster and no file of it remains."""
    command = [sys.executable, "-I", "-S", keeper.__file__, folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True):
        yield


def holds(cpus: float, gpus: float) -> int:
    """How many workers of `cpus` and `gpus` the cluster's nodes can hold, were they free."""
    return _count(_nodes(), cpus, gpus)


def free(cpus: float, gpus: float) -> int:
    """How many more workers of `cpus` and `gpus` fit on the nodes as they are."""
    nodes: Any = ray._private.state.available_resources_per_node()  # type: ignore[no-untyped-call]
    return _count(list(nodes.values()), cpus, gpus)


def _count(nodes: list[dict[str, float]], cpus: float, gpus: float) -> int:
    wanted = {name: share for name, share in (("CPU", cpus), ("GPU", gpus)) if share > 0}
    return sum(min(int(node.get(name, 0) / share + 1e-9) for name, share in wanted.items()) for node in nodes)


def describe() -> str:
    """The cluster's nodes and what each of them has, for messages."""
    nodes = _nodes()
    each = sorted({f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes})
    return f"{len(nodes)} {'node' if len(nodes) == 1 else 'nodes'} of {', '.join(each)}" if nodes else "no node is left"


def node_died() -> bool:
    """Whether the node of an embedded cluster is gone: nothing brings it back."""
    node = ray._private.worker._global_node
    gone: list[str] = [kind for kind, _ in node.dead_processes()] if node is not None else []
    return "raylet" in gone or not _nodes()


def _nodes() -> list[dict[str, float]]:
    nodes: Any = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def grows() -> bool:
    """Whether the cluster has an autoscaler, which may bring what is not there yet."""
    config = ray._private.state.state.get_cluster_config()
    return bool(config and config.node_group_configs)
