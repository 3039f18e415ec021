"""Whether something answers at an address, asked before a client that would try for minutes."""

from __future__ import annotations

import socket


def check_reachable(host: str, port: int, timeout: float) -> None:
    """Connect to `host` (a name or an address) and leave.

    Raises:
        OSError: nothing accepts a connection within `timeout` seconds.
    """
    socket.create_connection((host, port), timeout).close()
