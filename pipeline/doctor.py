"""What of this installation works: packages, processor, GPU, Ray, storage, Prefect; and how to fix what does not."""

from __future__ import annotations

import base64
import os
import platform
import shutil
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from cyclopts import Parameter
from packaging.requirements import Requirement

from shardlens.pipeline import benchmark, storage
from shardlens.pipeline.errors import ShardlensError, StorageError
from shardlens.pipeline.executors.base import ExecutorConfig, Lost
from shardlens.pipeline.executors.cores import usable_cores
from shardlens.pipeline.executors.opening import open_executor
from shardlens.pipeline.executors.reachable import check_reachable
from shardlens.pipeline.warehouse.layout import Warehouse, WarehouseRoot

State = Literal["ok", "warn", "fail"]
ANSWER_S = 5.0
LITTLE_BYTES = 1 << 30


@dataclass(frozen=True)
class Finding:
    """The finding on one part."""

    part: str
    state: State
    found: str
    remedy: str = ""
    """What to do about it; empty where nothing needs to be done."""


@dataclass(frozen=True)
class DoctorConfig:
    """What to examine."""

    warehouse: WarehouseRoot = "./warehouse"
    """Root of the tables."""
    ray: bool = True
    """Start Ray, or join the cluster, and run something on it."""
    address: str | None = None
    """Ray cluster to join; default: RAY_ADDRESS, else one is started on this machine."""
    bench: Annotated[bool, Parameter(negative="")] = False
    """Measure too what bounds the speed of a run here: decoding, the store, Parquet, Ray; half a minute."""


def examine(config: DoctorConfig) -> Iterator[Finding]:
    """Look at one part after the other."""
    yield python()
    yield packages()
    yield from torch_devices()
    if config.ray:
        yield ray(config.address)
    yield from warehouse(config.warehouse)
    yield prefect(os.environ.get("PREFECT_API_URL"))
    if config.bench:
        yield from bench(config)


def bench(config: DoctorConfig) -> Iterator[Finding]:
    """The constants of the stage model that the README sizes a cluster with."""
    yield Finding("decode", "ok", f"{benchmark.decoding() * 1e3:.1f} ms of a core per megapixel of JPEG")
    try:
        objects, megabytes = benchmark.fetching(_existing(storage.normalize(config.warehouse)))
        read = f"one worker reads {objects:.0f} objects of {benchmark.OBJECT_BYTES // 1000} KB a second, {megabytes:.0f} MB/s"
        yield Finding("fetch", "ok", read)
        yield Finding("rows", "ok", f"{benchmark.writing_rows():.1f} s of a core per million rows of Parquet")
        if config.ray:
            begun = time.perf_counter()
            with open_executor(ExecutorConfig(kind="ray", workers="1:1", address=config.address)) as workers:
                ready = time.perf_counter() - begun
                first, rate = benchmark.dealing(workers)
            yield Finding("start", "ok", f"Ray in {ready:.1f} s, its first worker in {first:.1f} s more")
            rate_of_shards = (
                f"{rate:.0f} shards of {benchmark.SHARD_IMAGES} images a second are sent to workers and returned"
            )
            yield Finding("scheduling", "ok", rate_of_shards)
    except ShardlensError as error:
        yield Finding("bench", "fail", str(error))


def python() -> Finding:
    """The interpreter."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {usable_cores()} cores"
    return Finding("python", "ok", found)


def packages(distribution: str = "shardlens") -> Finding:
    """Whether the installed packages are those that were asked for; some newer ones break Prefect's server."""
    asked = [Requirement(line) for line in requires(distribution) or ()]
    wanted = [each for each in asked if each.marker is None or each.marker.evaluate({"extra": ""})]
    wrong = [misfit for each in wanted if (misfit := _misfit(each))]
    if wrong:
        return Finding("packages", "fail", "; ".join(wrong), "pip install --constraint constraints.txt --editable .")
    return Finding("packages", "ok", f"{distribution} {version(distribution)} with the {len(wanted)} it asks for")


def _misfit(wanted: Requirement) -> str | None:
    """What is wrong with an installed package; None if nothing is."""
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        return f"{wanted.name} is missing"
    if wanted.specifier.contains(found, prereleases=True):
        return None
    return f"{wanted.name} is {found}, expected {wanted.specifier}"


def torch_devices() -> Iterator[Finding]:
    """Torch with torchvision, and what they compute on."""
    try:
        import torch  # seconds, and a broken one is a finding
        from torchvision.ops import nms

        nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)  # fails where the two do not match
    except (ImportError, OSError, RuntimeError) as error:
        yield Finding(
            "torch",
            "fail",
            str(error),
            "install a matching pair: pip install --constraint constraints.txt torch torchvision",
        )
        return
    yield Finding("torch", "ok", f"{torch.__version__}, torchvision {version('torchvision')}")
    from shardlens.pipeline.networks.precision import bf16_speedup, resolve_precision

    auto = resolve_precision("auto", "cpu")
    yield Finding(
        "cpu", "ok", f"a convolution is {bf16_speedup():.2f} times as fast in bf16: --precision auto is {auto}"
    )
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if names:
        yield Finding("gpu", "ok", f"{', '.join(names)}; CUDA {torch.version.cuda}")
    elif Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi"):
        remedy = "compare the driver (nvidia-smi) with torch's CUDA, and see that the container was started with --gpus"
        yield Finding("gpu", "warn", f"an NVIDIA driver, but torch (CUDA {torch.version.cuda}) sees no GPU", remedy)
    else:
        yield Finding("gpu", "ok", "none: predictions are computed on the CPU")


@dataclass(frozen=True)
class Echo:
    """A stage that gives its item back."""

    def setup(self) -> Callable[[int], int]:
        """Nothing to load."""
        return int


def ray(address: str | None) -> Finding:
    """Ray: a cluster that can be joined or started, and that runs something."""
    begun = time.perf_counter()
    try:
        with open_executor(ExecutorConfig(kind="ray", workers="1:1", address=address, start_timeout=60)) as workers:
            outcomes = list(workers.map(Echo(), [1]))
    except ShardlensError as error:
        return Finding("ray", "fail", str(error), "--executor local works without Ray")
    lost = [outcome.reason for outcome in outcomes if isinstance(outcome, Lost)]
    if lost:
        return Finding(
            "ray", "fail", f"a worker died: {lost[0]}", "see that it has memory, and the same packages as here"
        )
    where = (
        f"cluster at {address or os.environ.get('RAY_ADDRESS')}"
        if address or "RAY_ADDRESS" in os.environ
        else "embedded"
    )
    return Finding("ray", "ok", f"{version('ray')}, {where}, first result after {time.perf_counter() - begun:.1f} s")


def warehouse(root: str) -> Iterator[Finding]:
    """The warehouse: reachable, readable, writable, and its store knows how to create an object only once."""
    try:
        place = Warehouse(root)
        unreachable = _check_reachable(place.root)
        if unreachable:
            yield unreachable
            return
        yield _contents(place)
        yield _writing(place)
    except ShardlensError as error:
        yield Finding("warehouse", "fail", str(error))


def _check_reachable(root: str) -> Finding | None:
    """What keeps the store of an S3 URI from answering; the store itself would be tried for minutes."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not root.startswith("s3") or endpoint is None:
        return None
    parts = urlsplit(endpoint)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        check_reachable(parts.hostname or "", port, ANSWER_S)
    except (OSError, ValueError) as error:
        found = f"nothing answers at AWS_ENDPOINT_URL, {storage.redact(endpoint)} ({error})"
        return Finding("warehouse", "fail", found, "see that the store runs there, and that the address is right")
    return None


def _contents(place: Warehouse) -> Finding:
    """Whether there is a warehouse, and can be one."""
    if storage.exists(place.path("warehouse.json")):
        place.check()
        datasets, runs = (len(storage.children(place.path(part))) for part in ("datasets", "runs"))
        return Finding("warehouse", "ok", f"{place.root}: {datasets} datasets, {runs} runs")
    foreign_files = storage.children(place.root)[:3]
    if foreign_files:
        found = f"{place.root} is no warehouse, and holds {', '.join(foreign_files)}"
        return Finding("warehouse", "fail", found, "name another place with --warehouse or SHARDLENS_WAREHOUSE")
    remedy = "make it with 'shardlens ingest', or name another place with --warehouse or SHARDLENS_WAREHOUSE"
    return Finding("warehouse", "warn", f"{place.root}: nothing there yet", remedy)


def _writing(place: Warehouse) -> Finding:
    """Create a probe twice, the second time in vain, read it and delete it; a folder that is missing stays so."""
    root, more = _existing(place.root), ""
    if storage.is_local(root):
        free = shutil.disk_usage(root).free
        if free < LITTLE_BYTES:
            return Finding("storage", "warn", f"{free >> 20} MiB are free at {root}", "free some space")
        more = f", {free >> 30} GiB free"
    probe = storage.join(root, f".shardlens-probe-{uuid.uuid4().hex}")
    begun = time.perf_counter()
    try:
        once, twice = storage.create(probe, b"probe"), storage.create(probe, b"other")
        data = storage.read(probe)
    finally:
        storage.delete(probe)
    if (once, twice, data) != (True, False, b"probe"):
        raise StorageError(
            f"{root} lets one object be created twice: two runs of one name could not be kept apart. "
            "Use a store that honors If-None-Match, as S3 does"
        )
    return Finding("storage", "ok", f"{root}: written, read and deleted in {time.perf_counter() - begun:.2f} s{more}")


def _existing(root: str) -> str:
    """The place itself; of a local folder that is missing, the nearest one above it, so that none has to be made."""
    if not storage.is_local(root):
        return root
    return str(next(each for each in (Path(root), *Path(root).parents) if each.exists()))


def prefect(url: str | None) -> Finding:
    """Prefect: installed, and its server healthy and closed to others where one is named."""
    installed = f"{version('prefect')}"
    if url is None:
        return Finding(
            "prefect", "ok", f"{installed}; no server is named (PREFECT_API_URL): 'shardlens serve' brings its own"
        )
    server = f"{installed}; the server at {storage.redact(url)}"
    try:
        healthy = _status(f"{url.rstrip('/')}/health")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        remedy = "start it (prefect server start), correct PREFECT_API_URL (it ends in /api), or unset it"
        return Finding("prefect", "fail", f"{server} does not answer ({reason})", remedy)
    if healthy == 404:
        return Finding("prefect", "fail", f"{server} is no Prefect API", "correct PREFECT_API_URL (it ends in /api)")
    if healthy != 200:
        return Finding("prefect", "warn", f"{server} answers with status {healthy}", "see its log")
    return _access(url.rstrip("/"), server)


def _access(url: str, server: str) -> Finding:
    """Whether a Prefect server asks for a password, and takes the one that is configured."""
    if _status(f"{url}/version") == 200:
        remedy = "give it a password: PREFECT_SERVER_API_AUTH_STRING=user:password there, PREFECT_API_AUTH_STRING here"
        danger = "answers without a password: whoever reaches it can run commands as the user whose runs it starts"
        return Finding("prefect", "warn", f"{server} {danger}", remedy)
    password = os.environ.get("PREFECT_API_AUTH_STRING")
    if password and _status(f"{url}/version", f"Basic {base64.b64encode(password.encode()).decode()}") == 401:
        return Finding("prefect", "fail", f"{server} refuses the password", "correct PREFECT_API_AUTH_STRING")
    if not (password or os.environ.get("PREFECT_API_KEY")) and _status(f"{url}/version") == 401:
        remedy = "set PREFECT_API_AUTH_STRING=user:password, or PREFECT_API_KEY for Prefect Cloud"
        return Finding("prefect", "fail", f"{server} asks for a password, and none is set", remedy)
    return Finding("prefect", "ok", f"{server} answers")


def _status(url: str, authorization: str | None = None) -> int:
    """The status that a GET is answered with.

    Raises:
        OSError: nothing answers.
        ValueError: `url` is no URL.
    """
    headers = {"Authorization": authorization} if authorization else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=ANSWER_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
