"""Notes every address that this process, and every Python process that it starts, connects to or looks up."""

import os
import sys

WATCHED = {"socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0, "socket.gethostbyname": 0}


def note(event: str, arguments: tuple[object, ...]) -> None:
    if event in WATCHED:
        with open(os.environ["WIRETAP_LOG"], "a") as log:
            log.write(f"{arguments[WATCHED[event]]!r}\n")


if "WIRETAP_LOG" in os.environ:
    sys.addaudithook(note)
