"""The token of Ray clusters: whoever has it can run code on them.

A cluster either asks every client for the token or asks none, and a client that does not do the same waits for minutes.
`ray start` asks for it where ~/.ray/auth_token exists, which an embedded cluster creates. So a cluster that is to be
joined is asked first.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import Config  # type: ignore[attr-defined]

from shardlens.pipeline.errors import ExecutionError

MODE = "RAY_AUTH_MODE"
PROBES = {"": "/ray.rpc.NodeInfoGcsService/CheckAlive", "ray": "/ray.rpc.RayletDriver/ClusterInfo"}
"""By the address's scheme, a call that changes nothing, with an empty request."""
ANSWER_S = 5.0


def prepare_to_join(address: str) -> None:
    """Send this process's token to the cluster at `address` if it asks for one.

    Raises:
        ExecutionError: it asks for a token and this process has none, or another one; or it asks for none, and
            RAY_AUTH_MODE wants one to be sent.
    """
    refused = _refuses(address, None)
    if refused is None:
        return
    mode = os.environ.get(MODE, "").lower()
    if not refused:
        if mode == "token":
            raise ExecutionError(
                f"the Ray cluster at {address!r} asks for no token, but {MODE}=token is set here: unset it, or start the "
                f"cluster with {MODE}=token"
            )
        return
    if mode not in {"", "token"}:
        raise ExecutionError(
            f"the Ray cluster at {address!r} asks for a token, but {MODE}={mode} is set here: unset {MODE}"
        )
    token, source = _own_token()
    remedy = "copy ~/.ray/auth_token from the cluster's head node, or set RAY_AUTH_TOKEN to its content"
    if token is None:
        raise ExecutionError(
            f"the Ray cluster at {address!r} asks for a token, and there is none in {source}: {remedy}"
        )
    if _refuses(address, token):
        raise ExecutionError(f"the Ray cluster at {address!r} refuses the token in {source}: {remedy}")
    os.environ[MODE] = "token"
    Config.initialize("")  # Ray reads its environment once


def _refuses(address: str, token: str | None) -> bool | None:
    """Whether the cluster refuses a call with this token; None where it cannot be asked."""
    scheme, _, place = address.rpartition("://")
    target = place if place != "auto" else canonicalize_bootstrap_address("auto")
    if target is None or scheme not in PROBES:
        return None
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    with grpc.insecure_channel(target) as channel:
        call: Any = channel.unary_unary(PROBES[scheme])
        try:
            call(b"", timeout=ANSWER_S, metadata=metadata)
        except grpc.RpcError as error:
            code = getattr(error, "code", lambda: None)()
            return True if code == grpc.StatusCode.UNAUTHENTICATED else None
    return False


def _own_token() -> tuple[str | None, str]:
    """The token as Ray finds it, and where it was looked for."""
    if given := os.environ.get("RAY_AUTH_TOKEN"):
        return given.strip(), "RAY_AUTH_TOKEN"
    place = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(place) if place else _default_path()
    with suppress(OSError):
        return path.read_text().strip() or None, str(path)
    return None, str(path)


def _default_path() -> Path:
    return Path.home() / ".ray" / "auth_token"


def guard_token() -> None:
    """Create the token of this user's clusters before Ray does, which would make it readable by all."""
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    token = _default_path()
    token.parent.mkdir(parents=True, exist_ok=True)
    if not token.exists():
        with tempfile.NamedTemporaryFile("w", dir=token.parent) as draft, suppress(FileExistsError):  # mode 0600
            draft.write(secrets.token_hex(32))
            draft.flush()
            os.link(draft.name, token)  # atomic, for others may be starting
    token.chmod(0o600)


@contextmanager
def mode_restored() -> Iterator[None]:
    """Take back what an embedded cluster sets: that this process sends its token to any cluster that it joins later."""
    before = os.environ.get(MODE)
    try:
        yield
    finally:
        if before is None and os.environ.pop(MODE, None) is not None:
            Config.initialize("")
