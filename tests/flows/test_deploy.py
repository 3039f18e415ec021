"""The files of `deploy/`: they parse, agree with the pins and the flows, and Prefect and Ray themselves take them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import get_current_settings

from shardlens.pipeline.cli import build_app
from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
"""The one place where the version is written; images are tagged with it."""


def load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def pinned(package: str) -> str:
    found = re.search(rf"(?im)^{package}==(\S+)$", (ROOT / "constraints.txt").read_text())
    assert found is not None
    return found[1]


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    module, _, name = deployment["entrypoint"].rpartition(".")
    found = getattr(import_module(module), name)
    assert isinstance(found, Flow)
    return found


DEPLOYMENTS = load("prefect.yaml")["deployments"]


def test_every_flow_is_deployed_once_by_hand_and_inference_each_night() -> None:
    named = sorted(f"{flow_of(each).name}/{each['name']}" for each in DEPLOYMENTS)
    flows = ("dataset_inference", "dataset_training", "evaluate", "ingest", "predict", "train")
    assert named == sorted([*(f"{flow}/by-hand" for flow in flows), "dataset_inference/nightly"])


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda each: f"{each['entrypoint']}-{each['name']}")
def test_its_parameters_are_those_of_the_flow(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    given = deployment.get("parameters", {})
    assert set(given) <= set(flow.parameters.properties)
    if given:
        assert flow.validate_parameters(given)["predict"].dataset == "street"


def test_a_schedule_waits_for_its_parameters() -> None:
    (nightly,) = [each for each in DEPLOYMENTS if "schedules" in each]
    assert nightly["schedules"] == [{"cron": "30 2 * * *", "timezone": "UTC", "active": False}]
    assert nightly["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


@pytest.mark.prefect
@pytest.mark.slow
def test_prefect_deploys_them(client: SyncPrefectClient) -> None:
    environment = get_current_settings().to_environment_variables(exclude_unset=True)
    for words in (
        "work-pool create shardlens --type process",
        "--no-prompt deploy --all --prefect-file deploy/prefect.yaml",
    ):
        command = [sys.executable, "-m", "prefect", *shlex.split(words)]
        subprocess.run(command, env={**environment, "PATH": ""}, cwd=ROOT, check=True, capture_output=True, timeout=120)
    nightly = client.read_deployment_by_name("dataset_inference/nightly")
    assert (nightly.work_pool_name, nightly.entrypoint) == ("shardlens", "shardlens.flows.inference.dataset_inference")
    assert nightly.parameter_openapi_schema is not None
    assert "PredictConfig" in nightly.parameter_openapi_schema["definitions"]
    assert (nightly.schedules[0].active, nightly.pull_steps) == (False, [])


@pytest.mark.parametrize("name", ["kuberay-cluster.yaml", "kuberay-job.yaml"])
def test_kubernetes_runs_the_pinned_ray_in_one_image(name: str) -> None:
    manifest = load(name)
    cluster = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    assert (manifest["apiVersion"], cluster["rayVersion"]) == ("ray.io/v1", pinned("ray"))
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    containers = [each for group in groups for each in group["template"]["spec"]["containers"]]
    assert {each["image"] for each in containers} == {f"shardlens:{VERSION}"}
    assert all(each["resources"]["requests"] == each["resources"]["limits"] for each in containers)
    assert all(
        group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] for group in cluster["workerGroupSpecs"]
    )


def test_the_job_is_a_command_that_can_be_given() -> None:
    command, *words = shlex.split(load("kuberay-job.yaml")["spec"]["entrypoint"])
    assert command == "shardlens"
    _, bound, _ = build_app().parse_args(words, exit_on_error=False)
    assert bound.arguments["config"].dataset == "street"
    assert bound.arguments["executor"].gpus_per_worker == 1


@pytest.mark.ray
def test_ray_takes_the_cluster() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load("ray-up-ssh.yaml")
    validate_config(prepare_config(config))
    assert config["docker"]["image"] == f"shardlens:{VERSION}"
    assert config["min_workers"] == config["max_workers"] == len(config["provider"]["worker_ips"])


def test_the_image_installs_what_is_pinned_and_runs_as_nobody_special() -> None:
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "FROM python:3.11-slim"
    assert "RUN pip install --no-cache-dir --constraint constraints.txt ." in lines
    assert lines.index("USER shardlens") > lines.index("RUN pip install --no-cache-dir --constraint constraints.txt .")
    copied = {name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]}
    assert copied == {"pyproject.toml", "constraints.txt", "README.md", "models", "pipeline", "flows"}
    assert all((ROOT / name).exists() for name in copied)


def test_versions_are_those_of_the_pins() -> None:
    assert load("prefect.yaml")["prefect-version"] == pinned("prefect")
    for file in DEPLOY.iterdir():
        named = set(re.findall(r"shardlens:(\d[\w.]*)", file.read_text()))
        assert named <= {VERSION}, f"{file.name} names another version than pyproject.toml"
    assert pinned("SQLAlchemy").startswith("2.0.")


@pytest.mark.parametrize("file", sorted(DEPLOY.glob("*.yaml")), ids=lambda file: file.name)
def test_no_file_holds_a_secret_or_a_registry(file: Path) -> None:
    text = file.read_text()
    assert not re.search(r"(?i)(secret_access_key|auth_token|password)[=:]\s*[^\s.~#]", text)
    assert not re.search(r"image: [\w.-]+\.[a-z]+/", text)
