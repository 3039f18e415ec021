"""The wheel, installed into an empty environment and used next to other people's `models`, `pipeline` and `flows`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from shardlens.flows.synthetic_shapes import draw_dataset
from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]

FOREIGN = "raise ImportError('the project of somebody else was imported')\n"
OWN_MODEL = '''
from torch import Tensor, nn

from shardlens.models.spec import InputRule, ModelSpec


class Constant(nn.Module):
    """The last label everywhere."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(nn.functional.one_hot(Tensor([classes - 1]).long(), classes).float())

    def forward(self, images_nchw: Tensor) -> dict[str, Tensor]:
        n, _, height, width = images_nchw.shape
        return {"out": self.bias.view(1, -1, 1, 1).expand(n, -1, height, width)}


def build(num_classes: int) -> nn.Module:
    return Constant(num_classes)


SPEC = ModelSpec(name="constant", task="semantic", build=build, paper="", input_rule=lambda model: InputRule())
'''


def run(command: list[str], folder: Path, **variables: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | variables
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the files that belong to the project."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in (".src", "models", "pipeline", "flows"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir"]
    run([*build, str(target), str(source)], source)
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel; what it depends on is taken from the one that runs the tests."""
    place = tmp_path_factory.mktemp("environment") / "venv"
    run([sys.executable, "-m", "venv", "--without-pip", str(place)], ROOT)
    own = place / "bin" / "python"
    packages = Path(run([str(own), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], ROOT).strip())
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # a path alone: no editable install of it
    run([sys.executable, "-m", "pip", "--python", str(own), "install", "--quiet", "--no-deps", str(wheel)], ROOT)
    return own


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Somebody else's project: packages of the same bare names, a model of their own, and a little data."""
    for name in ("models", "pipeline", "flows"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(FOREIGN)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("")
    (tmp_path / "my_package" / "my_module.py").write_text(OWN_MODEL)
    (tmp_path / "labels.txt").write_text("disc\nsquare\ntriangle\n")
    draw_dataset(tmp_path / "data", {"val": 3}, size=64)
    return tmp_path


def test_the_wheel_holds_one_package_and_its_types(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top.partition("-")[0] for top in tops} == {"shardlens"}
    wanted = {"__init__.py", "py.typed", "models/zoo.py", "pipeline/predict.py", "flows/serve.py", "flows/commands.py"}
    assert {f"shardlens/{name}" for name in wanted} <= set(names)
    sources = {str(p.relative_to(ROOT)) for top in ("models", "pipeline", "flows") for p in (ROOT / top).rglob("*.py")}
    assert {f"shardlens/{name}" for name in sources} <= set(names)


def test_it_works_next_to_packages_of_the_same_bare_names(python: Path, project: Path) -> None:
    shardlens = str(python.with_name("shardlens"))
    run(
        [shardlens, "ingest", "shapes", "--images", "data/val/images", "--annotations", "data/instances_val.json"],
        project,
    )
    model = ["--model", "my_package.my_module:SPEC", "--weights", "random", "--labels", "labels.txt"]
    run([shardlens, "predict", "shapes", *model, "--run", "own"], project, PYTHONPATH=".")
    on_ray = ["--executor", "ray", "--workers", "1"]
    run([shardlens, "predict", "shapes", *model, "--run", "ray", *on_ray], project, PYTHONPATH=str(project))
    count = "SELECT run, count(*) AS n FROM predictions GROUP BY run ORDER BY run"
    code = f"import shardlens; print(shardlens.__file__); print(shardlens.query('warehouse', {count!r}).to_pylist())"
    place, rows = run([str(python), "-c", code], project).splitlines()
    assert place.startswith(str(python.parents[1]))
    assert rows == "[{'run': 'own', 'n': 3}, {'run': 'ray', 'n': 3}]"


def test_the_commands_of_flows_come_with_it(python: Path, project: Path) -> None:
    listed = run([str(python.with_name("shardlens")), "--help"], project)
    assert "demo" in listed
    assert "serve" in listed


def test_the_public_interface_is_there_and_does_without_torch(python: Path, project: Path) -> None:
    code = (
        "import sys, shardlens; assert 'torch' not in sys.modules; "
        "missing = [name for name in shardlens.__all__ if not getattr(shardlens, name).__doc__]; print(missing)"
    )
    assert run([str(python), "-c", code], project).strip() == "[]"
