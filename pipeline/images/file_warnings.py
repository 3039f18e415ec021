"""Warnings that decoders give while they read an image name its file."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class FileWarnings:
    """Puts the file that a thread reads before the text of the warnings which are shown in it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._show = warnings.showwarning
        self._reading = threading.local()

    @contextmanager
    def of(self, file_name: str) -> Iterator[None]:
        """Warnings of this thread are of `file_name`; how warnings are shown is changed for as long as one is read."""
        self._reading.name = file_name
        with self._lock:
            if self._users == 0:
                self._show, warnings.showwarning = warnings.showwarning, self._show_named
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    warnings.showwarning = self._show
            self._reading.name = None

    def _show_named(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        name = getattr(self._reading, "name", None)
        text = message if name is None else f"{name}: {message}"
        self._show(text, category, filename, lineno, file, line)


FILE_WARNINGS = FileWarnings()
"""Of this process: Python shows warnings in one place."""
