"""Wrong usage: the line that says what is missing or too many."""

from __future__ import annotations

import pytest

from shardlens.pipeline.cli import build_app, run


def usage(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command prints about its words."""
    with pytest.raises(SystemExit) as ended:
        run(build_app(), words)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        (("ingest",), "NAME and --images"),
        (("ingest", "shapes"), "--images"),
        (("ingest", "--images=x"), "NAME"),
        (("fuse",), "RUNS and --run"),
        (("fuse", "first", "second"), "--run"),
        (("query",), "SQL"),
        (("train", "shapes"), "--model"),
        (("import",), "DATASET and --predictions and --run"),
    ],
)
def test_all_that_is_missing_is_named_at_once(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], needed: str
) -> None:
    command = f"shardlens {words[0]}"
    expected = f"error: {command} needs {needed} ('{command} --help' lists what it takes)\n"
    assert usage(capsys, *words) == expected


def test_an_option_without_its_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert usage(capsys, "ingest", "shapes", "--images").startswith("error: --images needs a value (")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (
            ("ingest", "d", "--images", "i", "--classes", "a", "b", "c"),
            "error: b c: not expected here: commas separate the values of --classes, as in --classes a,b (",
        ),
        (
            ("predict", "d", "--weights", "w", "--ensemble", "x", "y"),
            "error: y: not expected here: --ensemble takes one value and may be repeated, as in --ensemble x --ensemble y (",
        ),
        (("evaluate", "first", "second"), "error: second: not expected here ("),
        (("evaluate", "first", "\x1b[31mred"), "error: \\x1b[31mred: not expected here ("),
    ],
)
def test_words_too_many_are_named_with_their_likely_home(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], hint: str
) -> None:
    assert usage(capsys, *words).startswith(hint)


def test_other_mistakes_keep_their_explanation(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean --model?" in usage(capsys, "predict", "shapes", "--modle", "unet")
    assert '"fp8"' in usage(capsys, "predict", "shapes", "--precision", "fp8")


@pytest.mark.parametrize("command", ["predict", "fuse", "show"])
def test_help_shows_no_empty_defaults_and_no_options_that_empty(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with pytest.raises(SystemExit, match="0"):
        run(build_app(), [command, "--help"])
    shown = capsys.readouterr().out
    assert "[default: ()]" not in shown
    assert '[default: ""]' not in shown
    assert "--empty-" not in shown
