"""The command line: `shardlens COMMAND`. Each command is a thin wrapper of its stage, loaded when it is called."""

from __future__ import annotations

import difflib
import errno
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points, version

from cyclopts import App, CycloptsError

from shardlens.pipeline.cli import recipe
from shardlens.pipeline.cli.grouping import Grouped
from shardlens.pipeline.cli.usage import explain
from shardlens.pipeline.errors import ShardlensError, printable, safe

OF_OUTPUT = {errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG, errno.EDQUOT}
"""What writing to standard output can fail with."""

COMMANDS = {
    "ingest": "Import images and annotations into the warehouse as a dataset.",
    "predict": "Predict a dataset with a model, on this machine or on Ray; the same command resumes.",
    "evaluate": "Score a run against its dataset's annotations: AP and AR, Dice and IoU.",
    "train": "Fit a model to a dataset with Ray Train and write a checkpoint.",
    "query": "Run SQL over all tables of the warehouse.",
    "show": "Draw images with their annotations or predictions as one PNG.",
    "fuse": "Fuse the boxes of several runs of one dataset into one run.",
    "export": "Write a run's predictions as a COCO results file.",
    "import": "Import COCO results made elsewhere as a committed run.",
    "runs": "List the runs of prediction and of training.",
    "verify": "Check all files of a run against the digests of its commit.",
    "delete": "Delete runs, datasets or checkpoints: by name, the old ones, or all but the newest.",
    "gc": "Remove what no committed run names: leftovers of killed runs, replaced parts, old dataset versions.",
    "datasets": "List the datasets of the warehouse.",
    "models": "List the models of the zoo.",
    "recipes": "List the recipes for training.",
    "doctor": "Check Ray, GPU, storage and Prefect, and suggest fixes.",
}


def build_app() -> App:
    """Make the command line.

    Other packages add commands by the entry point group `shardlens.commands`: each entry names a mapping, command ->
    ("module:function", one line of help), which is read at every start and so should import next to nothing.
    """
    app = App(
        name="shardlens",
        help_formatter=Grouped(),
        help="Object detection and image segmentation over whole datasets.",
        version=version("shardlens"),
        suppress_keyboard_interrupt=False,
    )
    for name, text in COMMANDS.items():
        place = "import_" if name == "import" else name  # a word of Python's own
        filling = recipe.fill_in if name == "train" else None
        app.command(f"shardlens.pipeline.cli.{place}:{place}", name=name, help=text, config=filling)
    for name, (place, text) in added_commands().items():
        app.command(place, name=name, help=text)
    app.register_install_completion_command(add_to_startup=False)
    return app


def added_commands() -> dict[str, tuple[str, str]]:
    """Commands of other packages."""
    return {name: row for entry in entry_points(group="shardlens.commands") for name, row in entry.load().items()}


def main() -> None:
    """The command `shardlens`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal of another encoding must not end a command
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:]
    known = [*COMMANDS, *added_commands()]
    if words and not words[0].startswith("-") and words[0] not in known:
        print(f"error: {_unknown(words[0], known)}", file=sys.stderr)
        sys.exit(2)
    run(build_app(), [_as_sql(word) for word in words] if words[:1] == ["query"] else words)


def _as_sql(word: str) -> str:
    """A word of the command line, with a space before it if it is SQL that begins with a comment and no option."""
    return f" {word}" if word.startswith("--") and (word[2:3].isspace() or "\n" in word) else word


def _unknown(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, 3)
    hint = f"did you mean {' or '.join(near)}?" if near else "'shardlens --help' lists the commands"
    return f"there is no command {printable(word)!r}: {hint}"


def run(app: App, words: Sequence[str] | None = None) -> None:
    """Run a command: exit status 0 if all of it worked, 1 after an error that is explained, 2 after wrong usage."""
    try:
        try:
            app(words, exit_on_error=False, print_error=False)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except CycloptsError as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(2)
    except ShardlensError as error:
        print(f"error: {safe(str(error))}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ninterrupted: what is finished is kept; rerun the same command to resume", file=sys.stderr)
        os._exit(130)  # threads that still wait for a store would be waited for
    except OSError as error:
        if error.filename is not None or error.errno not in OF_OUTPUT:
            raise
        if error.errno != errno.EPIPE:
            print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered would fail again at the exit
        sys.exit(1)
