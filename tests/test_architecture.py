"""The borders between the parts, over the syntax trees."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGINES = {
    "ray": "pipeline/executors/",
    "prefect": "flows/",
    "duckdb": "pipeline/query.py",
    "segmentation_models_pytorch": "models/segmentation/smp.py",
    "timm": "models/segmentation/smp.py",
}
MAY_IMPORT = {"models": {"models"}, "pipeline": {"models", "pipeline"}, "flows": {"models", "pipeline", "flows"}}
SAYS_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}
FILES = sorted(p.relative_to(ROOT).as_posix() for top in MAY_IMPORT for p in (ROOT / top).rglob("*.py"))


def imported(path: str) -> set[str]:
    """First names of the modules that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", FILES)
def test_engines_are_imported_in_one_place(path: str) -> None:
    strays = {engine for engine in imported(path) & set(ENGINES) if not path.startswith(ENGINES[engine])}
    assert not strays


@pytest.mark.parametrize("path", FILES)
def test_imports_point_one_way(path: str) -> None:
    assert imported(path) & set(MAY_IMPORT) <= MAY_IMPORT[path.partition("/")[0]]


@pytest.mark.parametrize("path", [path for path in FILES if path.startswith("models/")])
def test_models_are_torch_alone(path: str) -> None:
    own = {"models", "torch", "torchvision", "numpy", "scipy", *sys.stdlib_module_names}
    extra = {engine for engine, place in ENGINES.items() if path.startswith(place)}
    assert imported(path) <= own | extra


def test_names_say_something() -> None:
    assert not [path for path in FILES if SAYS_NOTHING & {Path(path).stem, *Path(path).parts[:-1]}]


def test_no_global_statements() -> None:
    found = [p for p in FILES for n in ast.walk(ast.parse((ROOT / p).read_text())) if isinstance(n, ast.Global)]
    assert not found
