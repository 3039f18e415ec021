"""Reading a large JSON object item by item: its lists are never all in memory, and errors name line and column."""

from __future__ import annotations

import re
from collections.abc import Iterator
from json import JSONDecodeError, JSONDecoder
from typing import Any

from shardlens.pipeline.errors import DatasetError

SPACE = re.compile(r"[ \t\n\r]*")
DECODER = JSONDecoder()
DIGITS = 4000
"""Digits of the longest whole number that Python converts without complaint; a longer one is infinite here."""
LONG = JSONDecoder(parse_int=lambda text: int(text) if len(text) <= DIGITS else float(text))


def text_of(data: bytes, where: str) -> str:
    """Decode a JSON file's bytes.

    Raises:
        DatasetError: the file is empty, or not UTF-8.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{where} is not JSON: byte {error.start} is {data[error.start]:#04x}, expected UTF-8 text "
            "(is it compressed, or another file?)"
        ) from None
    if not text.strip():
        raise DatasetError(f"{where} is empty: expected a JSON object; check that it was downloaded completely")
    return text


def items(text: str, where: str) -> Iterator[tuple[str, int | None, Any]]:
    """Yield (key, index, item) of each item of the object's lists, and (key, None, value) of its other values.

    An empty list is yielded as (key, None, []).

    Raises:
        DatasetError: it is not JSON (with line and column), or not an object.
    """
    try:
        yield from _Reader(text).object()
    except JSONDecodeError as error:
        raise _explained(error, text, where) from None
    except _NoObjectError as error:
        raise DatasetError(
            f"{where} holds a JSON {error}, expected an object with images, annotations and categories"
        ) from None


def is_list(text: str) -> bool:
    """Whether the JSON text is a list, as far as its first character tells."""
    return _Reader(text).peek() == "["


def elements(text: str, where: str) -> Iterator[tuple[int, Any]]:
    """Yield (index, item) of each item of a list.

    Raises:
        DatasetError: it is not JSON (with line and column), or not a list.
    """
    reader = _Reader(text)
    try:
        yield from ((index, item) for index, item in reader.list() if index is not None)
        reader.end("list")
    except JSONDecodeError as error:
        raise _explained(error, text, where) from None


def _explained(error: JSONDecodeError, text: str, where: str) -> DatasetError:
    return DatasetError(
        f"{where}, line {error.lineno}, column {error.colno}: not JSON ({error.msg}); "
        f"the file has {len(text)} characters: check that it was written or downloaded completely"
    )


class _NoObjectError(Exception):
    """The text does not begin with a brace."""


class _Reader:
    """A place in the text; the decoder of the standard library reads each item from there."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def peek(self) -> str:
        """Return the next character that is no space."""
        found = SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return self.text[self.at : self.at + 1]

    def take(self, expected: str) -> str:
        """Step over the next character, one of `expected`."""
        found = self.peek()
        if not found or found not in expected:
            raise JSONDecodeError(f"expected {' or '.join(expected)}", self.text, self.at)
        self.at += 1
        return found

    def value(self) -> Any:
        """Read one value."""
        self.peek()
        try:
            value, self.at = DECODER.raw_decode(self.text, self.at)
        except JSONDecodeError:
            raise
        except ValueError:  # a number of too many digits; this decoder is slower
            value, self.at = LONG.raw_decode(self.text, self.at)
        except RecursionError:
            raise JSONDecodeError("nested too deep", self.text, self.at) from None
        return value

    def object(self) -> Iterator[tuple[str, int | None, Any]]:
        """Read the object."""
        if self.peek() != "{":
            raise _NoObjectError("list" if self.peek() == "[" else type(self.value()).__name__)
        self.at += 1
        more = self.peek() != "}"
        self.at += not more
        while more:
            if self.peek() != '"':
                raise JSONDecodeError("expected a key in double quotes", self.text, self.at)
            key = str(self.value())
            self.take(":")
            if self.peek() == "[":
                yield from ((key, index, item) for index, item in self.list())
            else:
                yield key, None, self.value()
            more = self.take(",}") == ","
        self.end("object")

    def end(self, what: str) -> None:
        """Make sure that nothing follows."""
        if self.peek():
            raise JSONDecodeError(f"more text after the end of the {what}", self.text, self.at)

    def list(self) -> Iterator[tuple[int | None, Any]]:
        """Read a list's items."""
        self.take("[")
        if self.peek() == "]":
            self.at += 1
            yield None, []
            return
        index, more = 0, True
        while more:
            yield index, self.value()
            index += 1
            more = self.take(",]") == ","
