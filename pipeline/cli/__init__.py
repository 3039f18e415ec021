"""The command line: `shardlens COMMAND`. Each command is a thin wrapper of its stage, loaded when it is called."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points, version

from cyclopts import App

from shardlens.pipeline.cli import recipe
from shardlens.pipeline.errors import ShardlensError

COMMANDS = {
    "ingest": "Take images and annotations into the warehouse as a dataset.",
    "predict": "Predict a dataset with a model, on this machine or on Ray; the same command resumes.",
    "evaluate": "Score a run against its dataset's annotations: AP and AR, Dice and IoU.",
    "train": "Fit a model to a dataset with Ray Train and write a checkpoint.",
    "query": "Run SQL over all tables of the warehouse.",
    "show": "Draw images with their annotations or predictions as one PNG.",
    "fuse": "Fuse the boxes of several runs of one dataset into one run.",
    "export": "Write a run's predictions as a COCO results file.",
    "import": "Take COCO results made elsewhere in as a committed run.",
    "runs": "List the runs of prediction and of training.",
    "verify": "Check all files of a run against the digests of its commit.",
    "datasets": "List the datasets of the warehouse.",
    "models": "List the models of the zoo.",
    "recipes": "List the recipes for training.",
    "doctor": "Say what of Ray, GPU, storage and Prefect can be reached, and how to mend what can't.",
}


def build_app() -> App:
    """Make the command line.

    Other packages add commands by the entry point group `shardlens.commands`: each entry names a mapping, command ->
    ("module:function", one line of help), which is read at every start and so should import next to nothing.
    """
    app = App(
        name="shardlens",
        help="Detection and segmentation over whole image datasets.",
        version=version("shardlens"),
        suppress_keyboard_interrupt=False,
    )
    for name, text in COMMANDS.items():
        place = "import_" if name == "import" else name  # a word of Python's own
        filling = recipe.fill_in if name == "train" else None
        app.command(f"shardlens.pipeline.cli.{place}:{place}", name=name, help=text, config=filling)
    for entry in entry_points(group="shardlens.commands"):
        for name, (place, text) in entry.load().items():
            app.command(place, name=name, help=text)
    return app


def main() -> None:
    """The command `shardlens`."""
    run(build_app())


def run(app: App) -> None:
    """Run a command: exit status 0 if all of it worked, 1 after an error that is explained, 2 after wrong usage."""
    try:
        app()
    except ShardlensError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ninterrupted: what is finished is kept; give the same command again to go on", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)  # threads that still wait for a store would be waited for
    except BrokenPipeError:
        sys.exit(1)
