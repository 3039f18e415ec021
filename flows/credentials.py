"""The password of the embedded Prefect server: random, kept for its user alone, the same at each start."""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from pathlib import Path

from prefect.settings import PREFECT_HOME, PREFECT_SERVER_API_AUTH_STRING

from shardlens.pipeline.errors import AccessDeniedError

FILE = "shardlens-auth"
USER = "shardlens"
OTHERS = 0o077
"""Mode bits of everybody but the owner."""


def auth_file() -> Path:
    """Where the password is kept: next to the server's database, in PREFECT_HOME."""
    return Path(PREFECT_HOME.value()) / FILE


def auth_string() -> str:
    """Return the embedded server's `user:password`; it is made at the first call.

    PREFECT_SERVER_API_AUTH_STRING takes precedence. A file that other users can read, or could have written, is replaced.

    Raises:
        AccessDeniedError: the file cannot be read or written.
    """
    configured = PREFECT_SERVER_API_AUTH_STRING.value()
    if configured:
        return str(configured)
    try:
        return _kept(auth_file()) or _made(auth_file())
    except OSError as error:
        raise AccessDeniedError(
            f"the Prefect server's password cannot be kept in {auth_file()} ({error.strerror}): "
            "make the folder writable, or name another with PREFECT_HOME"
        ) from error


def _kept(file: Path) -> str | None:
    """The string in `file`, if only its owner, who is this user, can read it."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):  # a link may lead to a file of somebody else's
            return None
        raise
    with open(descriptor, encoding="ascii", errors="replace") as stream:
        status = os.fstat(descriptor)
        private = status.st_uid == os.geteuid() and not status.st_mode & OTHERS
        text = stream.read().strip()
    user, _, password = text.partition(":")
    return text if private and user and password else None


def _made(file: Path) -> str:
    """Put a new string into place at once, so that nobody reads half of it; of two that do, both use the first one's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{FILE}-")  # with mode 0600
    try:
        with open(descriptor, "w", encoding="ascii") as stream:
            stream.write(f"{USER}:{secrets.token_urlsafe(32)}\n")
        try:
            os.link(temporary, file)
        except FileExistsError:
            if _kept(file) is None:
                os.replace(temporary, file)
    finally:
        Path(temporary).unlink(missing_ok=True)
    kept = _kept(file)
    assert kept is not None, f"{file} was just written"
    return kept
