"""The files of `deploy/`: they parse, agree with the pins and the flows, and Prefect and Ray themselves take them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
import yaml  # type: ignore[import-untyped]
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, get_current_settings, temporary_settings
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration  # type: ignore[import-untyped]

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


def test_every_flow_is_deployed_once_by_hand_and_two_on_schedules() -> None:
    named = sorted(f"{flow_of(each).name}/{each['name']}" for each in DEPLOYMENTS)
    flows = ("dataset_inference", "dataset_training", "evaluate", "ingest", "predict", "retention", "train")
    assert named == sorted([*(f"{flow}/by-hand" for flow in flows), "dataset_inference/nightly", "retention/weekly"])


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda each: f"{each['entrypoint']}-{each['name']}")
def test_its_parameters_are_those_of_the_flow(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    given = deployment.get("parameters", {})
    assert set(given) <= set(flow.parameters.properties)
    if "predict" in given:
        assert flow.validate_parameters(given)["predict"].dataset == "street"
    elif given:
        assert flow.validate_parameters(given)["config"].keep == 10


def test_a_schedule_waits_for_its_parameters() -> None:
    nightly, weekly = [each for each in DEPLOYMENTS if "schedules" in each]
    assert weekly["schedules"] == [{"cron": "0 5 * * 0", "timezone": "UTC", "active": False}]
    assert nightly["schedules"] == [{"cron": "30 2 * * *", "timezone": "UTC", "active": False}]
    assert nightly["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}


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


@pytest.fixture
def manifest() -> dict[str, Any]:
    """The job of a flow run, as prefect-kubernetes makes it of the pool's template and a deployment's variables."""
    template = json.loads((DEPLOY / "kubernetes-job-template.json").read_text())
    variables = {"env": {"DO_NOT_TRACK": "1"}, "image": f"shardlens:{VERSION}"}
    settings = {PREFECT_API_URL: "https://prefect.example.com/api", PREFECT_API_AUTH_STRING: "user:password"}
    with temporary_settings(settings):
        job = asyncio.run(KubernetesWorkerJobConfiguration.from_template_and_values(template, variables))
        job.prepare_for_flow_run(FlowRun(flow_id=uuid4(), name="shapes by unet"))
    return cast("dict[str, Any]", job.job_manifest)


def test_a_kubernetes_job_has_the_keys_of_the_store_and_of_ray(manifest: dict[str, Any]) -> None:
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    cluster = load("kuberay-cluster.yaml")
    (ray_head,) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == ray_head["envFrom"]
    environment = {each["name"]: each.get("value") or each.get("valueFrom") for each in container["env"]}
    token = {"secretKeyRef": {"name": cluster["metadata"]["name"], "key": "auth_token", "optional": True}}
    assert (environment["RAY_AUTH_MODE"], environment["RAY_AUTH_TOKEN"]) == ("token", token)
    assert environment["PREFECT_API_URL"] == "https://prefect.example.com/api"
    assert (environment["PREFECT_API_AUTH_STRING"], environment["DO_NOT_TRACK"]) == ("user:password", "1")
    assert (container["image"], container["resources"]["limits"]) == (
        f"shardlens:{VERSION}",
        {"cpu": "1", "memory": "4Gi"},
    )
    assert " ".join(container["args"]).endswith("flow-run execute")
    assert (manifest["kind"], manifest["metadata"]["namespace"]) == ("Job", "default")


def test_a_manifest_has_no_placeholder_left(manifest: dict[str, Any]) -> None:
    assert "{{" not in json.dumps(manifest)


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
    assert lines[:2] == ["ARG BASE=python:3.11-slim", "FROM ${BASE}"]
    text = "\n".join(lines)
    assert text.index("USER shardlens") > text.index("pip install")
    assert "pip install --no-cache-dir --require-hashes --requirement requirements.lock" in text
    assert re.search(r"--constraint constraints\.txt setuptools==\d+\.\d+\.\d+ ", text)
    installs = [line for line in lines if "pip install" in line and line.rstrip(" \\;fi").endswith(".")]
    assert all("--no-build-isolation" in line for line in installs), (
        "an isolated build takes a setuptools that is not pinned"
    )
    copied = {name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]}
    assert "deploy/requirements.loc[k]" in copied
    copied.discard("deploy/requirements.loc[k]")
    assert copied == {"pyproject.toml", "constraints.txt", "README.md", "models", "pipeline", "flows"}
    assert all((ROOT / name).exists() for name in copied)


def test_versions_are_those_of_the_pins() -> None:
    assert load("prefect.yaml")["prefect-version"] == pinned("prefect")
    for file in DEPLOY.iterdir():
        named = set(re.findall(r"shardlens:(\d[\w.]*)", file.read_text()))
        assert named <= {VERSION}, f"{file.name} names another version than pyproject.toml"
    assert pinned("SQLAlchemy").startswith("2.0.")


def test_hashes_refuse_what_is_not_pinned(tmp_path: Path) -> None:
    """pip itself, offline: a wheel of the pinned hash is installed, another one is not."""
    wheel = tmp_path / "pinned-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pinned.py", "")
        archive.writestr("pinned-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: pinned\nVersion: 1.0\n")
        archive.writestr("pinned-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("pinned-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(tmp_path), "--require-hashes"]
    command += ["--target", str(tmp_path / "site"), "--requirement", str(tmp_path / "requirements.lock")]
    for known, status in ((digest, 0), ("0" * 64, 1)):
        (tmp_path / "requirements.lock").write_text(f"pinned==1.0 --hash=sha256:{known}\n")
        assert subprocess.run(command, check=False, capture_output=True).returncode == status


@pytest.mark.parametrize("file", sorted(DEPLOY.glob("*.yaml")), ids=lambda file: file.name)
def test_no_file_holds_a_secret_or_a_registry(file: Path) -> None:
    text = file.read_text()
    assert not re.search(r"(?i)(secret_access_key|auth_token|password)[=:]\s*[^\s.~#]", text)
    assert not re.search(r"image: [\w.-]+\.[a-z]+/", text)
