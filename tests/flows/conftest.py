"""A Prefect server of the tests' own, and a small dataset of drawn shapes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from shardlens.flows.server import prefect_server
from shardlens.flows.synthetic_shapes import draw_dataset
from shardlens.pipeline.executors.local import LocalExecutor
from shardlens.pipeline.ingest import IngestConfig, ingest
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig
from tests.conftest import free_ports


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server that knows nothing yet; flows called in a test report to it."""
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PREFECT_HOME", str(home))
        environment.delenv("PREFECT_API_URL", raising=False)
        environment.setenv("PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS", "3")  # 30 by default
        with (
            temporary_settings({PREFECT_HOME: home}, restore_defaults={PREFECT_API_URL}),
            prefect_server(free_ports(1)[0]) as url,
        ):
            yield url
            APILogWorker.drain_all()
            EventsWorker.drain_all()


@pytest.fixture
def client(prefect_api: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images with annotations in COCO form, and the names of their categories."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, {"val": 8}, size=64)
    (folder / "labels.txt").write_text("disc\nsquare\ntriangle\n")
    return folder


@pytest.fixture
def source(drawn: Path, tmp_path: Path) -> IngestConfig:
    """The drawn images with their annotations, for a warehouse of the test's own."""
    annotations = str(drawn / "instances_val.json")
    return IngestConfig(
        "shapes", images=str(drawn / "val/images"), annotations=annotations, warehouse=str(tmp_path / "warehouse")
    )


@pytest.fixture
def shapes(source: IngestConfig, drawn: Path) -> PredictConfig:
    """What predicts the drawn images, already ingested, with a network that knows nothing, on two shards."""
    ingest(source, LocalExecutor())
    network = NetworkConfig(model="unet", weights="random", labels=str(drawn / "labels.txt"))
    return PredictConfig("shapes", network=network, shard_size=4, warehouse=source.warehouse)
