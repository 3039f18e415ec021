"""The borders between the parts, over the syntax trees: which room may import which, and where engines are imported."""

from __future__ import annotations

import ast
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from shardlens.pipeline.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
ORDER = (
    {"models"},
    {"errors"},
    {"storage", "executors", "masks"},
    {"warehouse", "networks", "images"},
    {"annotations", "metrics", "inference", "sql"},
    {"training"},
    {"commands"},
    {"cli"},
    {"flows"},
)
"""The rooms from the ground up: each imports from those below it, and from those beside it as long as no circle comes of it."""
COMMAND_OF = {"retry": "predict", "benchmark": "doctor", "errors": None}
"""Flat files of `pipeline/` that are not called as their command is; errors belong to all of them."""
MOST_ROOMS, MOST_LAYERS, MOST_ARROWS = 30, 10, 150
ENGINES = {
    "ray": "pipeline/executors/",
    "prefect": "flows/",
    "duckdb": "pipeline/query.py",
    "segmentation_models_pytorch": "models/segmentation/smp.py",
    "timm": "models/segmentation/smp.py",
}
SAYS_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}
TOPS = ("models", "pipeline", "flows")
FILES = sorted(p.relative_to(ROOT).as_posix() for top in TOPS for p in (ROOT / top).rglob("*.py"))


@cache
def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def imported(path: str) -> set[str]:
    """Dotted names that a file imports, in functions too; of `from a import b` both a and a.b."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = path.split("/")[: -node.level] if node.level else []
            module = ".".join((["shardlens", *base] if base else []) + [node.module or ""]).strip(".")
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def module(path: str) -> str:
    return "shardlens." + path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module(path): path for path in FILES}


@cache
def targets(path: str) -> frozenset[str]:
    """Files of ours that a file imports; a package's own file counts only where nothing below it is meant."""
    names = {name for name in imported(path) if name in MODULES}
    deepest = {name for name in names if not any(other.startswith(f"{name}.") for other in names)}
    return frozenset(MODULES[name] for name in deepest) - {path}


def room(path: str) -> str:
    """The room of a file: the folder below `pipeline/`, or the name of a flat file there; else the top folder."""
    top, _, rest = path.partition("/")
    return rest.partition("/")[0].removesuffix(".py") if top == "pipeline" else top


def level(path: str) -> int:
    name = room(path)
    return next((i for i, rooms in enumerate(ORDER) if name in rooms), len(ORDER) - 3)


def arrows() -> set[tuple[str, str]]:
    """Imports between two rooms of `pipeline/`."""
    inside = [path for path in FILES if path.startswith("pipeline/") and path != "pipeline/__init__.py"]
    pairs = {(room(a), room(b)) for a in inside for b in targets(a) if b in inside}
    return {(a, b) for a, b in pairs if a != b}


def layers(edges: set[tuple[str, str]]) -> dict[str, int]:
    """The height of each room above the ground."""

    @cache
    def height(name: str) -> int:
        return 1 + max((height(b) for a, b in edges if a == name), default=0)

    return {name: height(name) for edge in edges for name in edge}


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Nodes that reach themselves, in the order of one way round; empty if there is none."""
    done: set[str] = set()

    def walk(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return []
        for target in sorted(edges.get(node, ())):
            if found := walk(target, [*way, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(edges) if (found := walk(node, []))), [])


@pytest.mark.parametrize("path", FILES)
def test_engines_are_imported_in_one_place(path: str) -> None:
    engines = {name.partition(".")[0] for name in imported(path)} & set(ENGINES)
    assert not {engine for engine in engines if not path.startswith(ENGINES[engine])}


@pytest.mark.parametrize("path", FILES)
def test_imports_run_with_the_order_of_the_rooms(path: str) -> None:
    against = {target for target in targets(path) if level(target) > level(path)}
    assert not against, f"{path} ({room(path)}) imports from above: {sorted(against)}"


def test_no_circle_of_files() -> None:
    assert circle({path: set(targets(path)) for path in FILES}) == []


def test_no_circle_of_rooms() -> None:
    edges: dict[str, set[str]] = {}
    for a, b in arrows():
        edges.setdefault(a, set()).add(b)
    assert circle(edges) == []


def test_a_circle_would_be_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert not any(circle({a: {b}}) for a, b in pairwise("abc"))


def test_the_house_stays_small() -> None:
    edges = arrows()
    floors = layers(edges)
    assert len(floors) <= MOST_ROOMS
    assert max(floors.values()) <= MOST_LAYERS
    assert len(edges) <= MOST_ARROWS


def test_a_flat_file_belongs_to_a_command() -> None:
    flat = [path.removesuffix(".py").partition("/")[2] for path in FILES if path.count("/") == 1 and path[0] == "p"]
    commands = {name: COMMAND_OF.get(name, name.partition("_")[0]) for name in flat if name != "__init__"}
    assert not {name: command for name, command in commands.items() if command and command not in COMMANDS}


@pytest.mark.parametrize("path", [path for path in FILES if path.startswith("models/")])
def test_models_are_torch_alone(path: str) -> None:
    own = {"torch", "torchvision", "numpy", "scipy", *sys.stdlib_module_names}
    extra = {engine for engine, place in ENGINES.items() if path.startswith(place)}
    ours = ("shardlens", "shardlens.models")
    strange = {name for name in imported(path) if name not in ours and not name.startswith("shardlens.models.")}
    assert {name.partition(".")[0] for name in strange} <= own | extra


@pytest.mark.parametrize("path", FILES)
def test_the_import_name_is_shardlens(path: str) -> None:
    assert not {name for name in imported(path) if name.partition(".")[0] in TOPS}


def test_names_say_something() -> None:
    assert not [path for path in FILES if SAYS_NOTHING & {Path(path).stem, *Path(path).parts[:-1]}]


def test_no_global_statements() -> None:
    assert not [path for path in FILES for node in ast.walk(tree(path)) if isinstance(node, ast.Global)]
