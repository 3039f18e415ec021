"""Which faults of a store are tried again: those that the error itself, or its explicit causes, show to pass."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.errors import LocationNotFoundError, StorageError
from shardlens.pipeline.storage.faults import is_transient
from tests.conftest import free_ports


def raised_in(first: BaseException, then: BaseException, explicit: bool) -> BaseException:
    """`then`, raised while `first` is handled."""
    try:
        try:
            raise first
        except type(first):
            if explicit:
                raise then from first
            raise then  # noqa: B904 - without a cause, as code does that only meets the first error
    except type(then) as error:
        return error


@pytest.mark.parametrize("first", [ConnectionRefusedError(), TimeoutError(), BlockingIOError()], ids=repr)
def test_what_an_error_was_raised_in_does_not_make_it_pass(first: OSError) -> None:
    missing = FileNotFoundError(2, "No such file")
    assert not is_transient(raised_in(first, missing, explicit=False))
    denied = PermissionError(13, "Permission denied")
    assert not is_transient(raised_in(first, denied, explicit=False))


@pytest.mark.parametrize("first", [ConnectionResetError(), TimeoutError()], ids=repr)
def test_an_explicit_cause_does(first: OSError) -> None:
    assert is_transient(raised_in(first, OSError(5, "input/output error"), explicit=True))
    assert is_transient(raised_in(ValueError(), first, explicit=False))


def test_a_missing_file_is_missing_at_once_while_a_refused_connection_is_handled(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    begun = time.monotonic()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        pass
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        for call in (storage.read, storage.size):
            with pytest.raises(LocationNotFoundError):
                call(str(tmp_path / "nope"))
        storage.delete(str(tmp_path / "nope"))
        with pytest.raises(StorageError):
            storage.publish(str(tmp_path / "nope" / "\0"), b"")
    assert time.monotonic() - begun < 2
