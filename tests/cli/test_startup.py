"""What a command loads before its options are read: nothing that takes seconds, so that a mistake is reported at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shardlens.pipeline.cli import COMMANDS

HEAVY = ("torch", "torchvision", "ray", "prefect", "duckdb", "pandas", "scipy", "matplotlib")
PROGRAM = f"""
import sys
from shardlens.pipeline.cli import main
try:
    main()
finally:
    print("loaded:", *(name for name in {HEAVY} if name in sys.modules))
"""
GIVEN: dict[str, tuple[str, ...]] = {
    "doctor": (),
    "datasets": (),
    "export": ("r", "--output", "results.json"),
    "import": ("d", "--predictions", "results.json", "--run", "r"),
    "ingest": ("d", "--images", "images"),
    "models": (),
    "query": ("SELECT 1",),
    "recipes": (),
    "runs": (),
    "train": ("d", "--model", "unet"),
}
"""What a command needs before the wrong option is its only mistake; one word if it is not listed."""


def start(*words: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run the command line in a new process; what it printed, and which heavy packages it had loaded at the end."""
    command = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done, done.stdout.splitlines()[-1]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_wrong_option_is_reported_before_anything_heavy_is_loaded(command: str) -> None:
    done, loaded = start(command, *GIVEN.get(command, ("x",)), "--wieghts", "x")
    assert done.returncode == 2, done.stderr
    assert "--wieghts" in done.stderr
    assert "Traceback" not in done.stderr
    assert loaded == "loaded:"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_loads_nothing_heavy(command: str) -> None:
    done, loaded = start(command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: shardlens" in done.stdout
    assert loaded == "loaded:"


@pytest.mark.parametrize("value", [("--precision", "fp8"), ("--tile", "64"), ("--batch-size", "0"), ("--tile", "many")])
def test_a_wrong_value_of_predict_is_reported_before_anything_heavy_is_loaded(value: tuple[str, str]) -> None:
    done, loaded = start("predict", "x", *value)
    assert done.returncode in {1, 2}, done.stderr
    assert "Traceback" not in done.stderr
    assert loaded == "loaded:"


def test_configurations_of_the_public_interface_load_nothing_heavy() -> None:
    names = ("PredictConfig", "NetworkConfig", "InferenceConfig", "TrainConfig", "ExecutorConfig", "EvaluateConfig")
    loading = f"import shardlens, sys; [getattr(shardlens, name) for name in {names}]"
    program = f"{loading}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_configurations_are_the_same_wherever_they_are_imported_from() -> None:
    import shardlens
    from shardlens.pipeline import predict, train
    from shardlens.pipeline.inference import options
    from shardlens.pipeline.networks import resolve

    assert shardlens.PredictConfig is predict.PredictConfig
    assert shardlens.TrainConfig is train.TrainConfig
    assert shardlens.InferenceConfig is options.InferenceConfig
    assert shardlens.NetworkConfig is resolve.NetworkConfig
