"""A real HTTP store that is down for its first requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Outage:
    """How many requests are still refused, and how many were."""

    left: int
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def takes(self) -> bool:
        with self.lock:
            hit = self.left > 0
            self.left -= hit
            self.refused += hit
            return hit


class Handler(SimpleHTTPRequestHandler):
    def __init__(self, *request: object, outage: Outage, directory: str) -> None:
        self.outage = outage
        super().__init__(*request, directory=directory)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if self.outage.takes():
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def failing_store(folder: Path, outage: Outage) -> Iterator[str]:
    """Serve `folder` on the loopback; gives its URL."""
    handler = partial(Handler, outage=outage, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
