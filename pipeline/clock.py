"""Where the time of a worker goes, by stage."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds spent in each stage, added up from several threads; stages that overlap count each for itself."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def spent(self, stage: str) -> Iterator[None]:
        """Count the time of the context, failed or not, as that of `stage`."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - begun
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + taken
