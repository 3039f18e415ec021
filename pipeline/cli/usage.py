"""Wrong usage in words: which argument is missing, and where the words that are too many may belong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cyclopts import App
from cyclopts.exceptions import CycloptsError, MissingArgumentError, UnusedCliTokensError

from shardlens.pipeline.errors import printable

if TYPE_CHECKING:
    from cyclopts import Argument

LISTS = ("--classes", "--tta")
"""Options that take several values with commas between them."""


def explain(error: CycloptsError) -> str:
    """What is wrong with the words of a command, and where to read what it takes."""
    command = " ".join(("shardlens", *(error.command_chain or ())))
    return f"{_reason(error, command)} ('{command} --help' lists what it takes)"


def _reason(error: CycloptsError, command: str) -> str:
    arguments = error.app.assemble_argument_collection() if isinstance(error.app, App) and error.command_chain else []
    words = error.root_input_tokens or []
    match error:
        case MissingArgumentError(keyword=str(option)):
            return f"{option} needs a value"
        case MissingArgumentError(keyword=None, argument=argument) if argument in arguments and argument.required:
            return f"{command} needs {' and '.join(_missing(argument, arguments, words))}"
        case UnusedCliTokensError(unused_tokens=[first, *_] as left):
            shown = " ".join(printable(word) for word in left)
            return f"{shown}: not expected here{_home(first, arguments, words)}"
    return printable(str(error)).rstrip(".")


def _missing(first: Argument, arguments: Sequence[Argument], words: Sequence[str]) -> list[str]:
    """What the command needs and was not given, from `first` on: those before it were."""
    given = {word.partition("=")[0] for word in words}
    rest = [argument for argument in arguments[arguments.index(first) :] if argument.required]
    return [_label(argument) for argument in rest if given.isdisjoint(argument.names)]


def _label(argument: Argument) -> str:
    return argument.name if argument.index is None else argument.name.removeprefix("--").upper()


def _home(left: str, arguments: Sequence[Argument], words: Sequence[str]) -> str:
    """How an option takes several values, if the words that are left follow the first value of one."""
    place = words.index(left) if left in words else 0
    option = words[place - 2] if place >= 2 else ""
    if option in LISTS:
        return f": commas separate the values of {option}, as in {option} {words[place - 1]},{left}"
    if any(option in argument.names and str(argument.hint).startswith("tuple") for argument in arguments):
        return f": {option} takes one value and may be repeated, as in {option} {words[place - 1]} {option} {left}"
    return ""
