"""A receiver of webhooks on the loopback interface, as one of a user's own would be."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "token-that-nobody-may-see"


@dataclass
class Receiver:
    """What was posted, and where to."""

    url: str = ""
    posts: list[dict[str, Any]] = field(default_factory=list)

    def of(self, alert: str) -> list[dict[str, Any]]:
        return [post for post in self.posts if post.get("alert") == alert]


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Receive JSON at a URL with a secret in it, until the end of the block."""
    received = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.posts.append({"path": self.path, **json.loads(body)})
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received.url = f"http://127.0.0.1:{server.server_port}/{SECRET}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield received
        finally:
            server.shutdown()
            thread.join()
