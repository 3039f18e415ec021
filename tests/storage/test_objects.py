"""Storage on the local disk, in memory and on a real S3 server."""

from __future__ import annotations

import errno
import os
import resource
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.errors import (
    AccessDeniedError,
    ConfigError,
    LocationNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from shardlens.pipeline.storage import objects
from tests.conftest import Bucket, S3Server


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path)
    if request.param == "memory":
        return f"memory://{tmp_path.name}"
    bucket: Bucket = request.getfixturevalue("s3")
    return bucket.uri


def test_what_is_published_is_read_back(root: str) -> None:
    uri = storage.join(root, "a", "b c'é#%.bin")
    storage.publish(uri, b"first")
    storage.publish(uri, b"second")
    assert storage.read(uri) == b"second"
    assert storage.read_range(uri, 1, 3) == b"eco"
    assert storage.size(uri) == 6
    assert storage.exists(uri)


def test_create_is_exclusive(root: str) -> None:
    uri = storage.join(root, "once")
    assert storage.create(uri, b"1") is True
    assert storage.create(uri, b"2") is False
    assert storage.read(uri) == b"1"


def test_of_many_creators_one_wins(root: str) -> None:
    uri = storage.join(root, "race")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: storage.create(uri, str(i).encode()), range(8)))
    assert sum(won) == 1
    assert storage.read(uri) == str(won.index(True)).encode()


def test_children_and_walk_list_in_order(root: str) -> None:
    for name in ("x/2", "x/1", "y"):
        storage.publish(storage.join(root, name), b"..")
    assert storage.children(root) == ["x/", "y"]
    assert [(e.name, e.size) for e in storage.walk(root)] == [("x/1", 2), ("x/2", 2), ("y", 2)]
    assert storage.walk(storage.join(root, "none")) == []
    assert storage.children(storage.join(root, "none")) == []


def test_many_reads_keep_order_and_give_errors_as_values(root: str) -> None:
    for i in range(20):
        storage.publish(storage.join(root, str(i)), bytes([i]) * 4)
    wanted = [(storage.join(root, str(i)), None, None) for i in range(20)]
    found = storage.read_many([*wanted, (storage.join(root, "missing"), None, None), (wanted[3][0], 1, 2)])
    assert found[:20] == [bytes([i]) * 4 for i in range(20)]
    assert isinstance(found[20], LocationNotFoundError)
    assert found[21] == bytes([3, 3])


def test_many_are_deleted_and_no_others(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "IN_ONE_REQUEST", 3)
    names = [*(f"n{i}" for i in range(8)), "b c'é#%.bin", "a*", "a[1]", "below/n"]
    for name in [*names, "stays", "a1", "ab"]:
        storage.publish(storage.join(root, name), b"x")
    storage.delete_many([storage.join(root, name) for name in [*names, "missing", "n0"]])
    assert [entry.name for entry in storage.walk(root)] == ["a1", "ab", "stays"]
    storage.delete_many([])


def test_a_folder_is_deleted_with_all_below_it_and_nothing_beside_it(root: str) -> None:
    for name in ("a/one", "a/b/two", "ab"):
        storage.publish(storage.join(root, name), b"x")
    storage.delete_folder(storage.join(root, "a"))
    storage.delete_folder(storage.join(root, "a"))
    assert [entry.name for entry in storage.walk(root)] == ["ab"]


@pytest.mark.s3
def test_who_may_only_read_deletes_nothing(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"{s3.uri}/kept"
    storage.publish(uri, b"x")
    for name, value in s3.server.reader().items():
        monkeypatch.setenv(name, value)
    storage.forget_connections()
    with pytest.raises(AccessDeniedError, match=uri):
        storage.delete_many([uri])
    with pytest.raises(AccessDeniedError, match=uri):
        storage.delete_folder(s3.uri)
    assert storage.exists(uri)


def test_delete_of_nothing_is_fine(root: str) -> None:
    uri = storage.join(root, "gone")
    storage.publish(uri, b"")
    storage.delete(uri)
    storage.delete(uri)
    assert not storage.exists(uri)


def test_missing_object_says_where_and_what_to_do(root: str) -> None:
    with pytest.raises(LocationNotFoundError, match=r"nowhere: .*not found.*check the spelling"):
        storage.read(storage.join(root, "nowhere"))


def test_readers_never_see_a_part(tmp_path: Path) -> None:
    uri = str(tmp_path / "whole")
    storage.publish(uri, b"a" * 100_000)
    seen: set[bytes] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.add(storage.read(uri))

    reader = threading.Thread(target=watch)
    reader.start()
    for letter in (b"b", b"c", b"d"):
        storage.publish(uri, letter * 100_000)
    done.set()
    reader.join()
    assert seen <= {letter * 100_000 for letter in (b"a", b"b", b"c", b"d")}


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert "free some" in str(storage.explain("/x", OSError(errno.ENOSPC, "No space left on device")))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))  # the kernel refuses to write more, as a full disk does
    try:
        with pytest.raises(StorageError, match=r"part: .*File too large"):
            storage.publish(str(tmp_path / "part"), b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://b/k/", "s3://b/k"),
        ("memory://a/b/", "memory://a/b"),
        ("file:///tmp/a%20b", "/tmp/a b"),
        ("/tmp/x/", "/tmp/x"),
    ],
)
def test_places_have_one_spelling(uri: str, expected: str) -> None:
    assert storage.normalize(uri) == expected


def test_relative_paths_become_absolute() -> None:
    assert storage.normalize("warehouse") == os.path.abspath("warehouse")


@pytest.mark.parametrize(
    "uri", ["s3://kk:hidden@bucket/x", "https://u:hidden@host/a", "https://h/a?X-Amz-Signature=hidden"]
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(ConfigError, match="carries credentials") as caught:
        storage.normalize(uri)
    assert "hidden" not in str(caught.value)


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ConfigError, match="begins with nosuch://"):
        storage.normalize("nosuch://x")


@pytest.mark.parametrize("uri", ["", " "])
def test_an_empty_uri_is_no_place(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a path or a URI; \. is the current folder"):
        storage.normalize(uri)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"is a folder: expected a file$"):
        storage.read(str(tmp_path))


@pytest.mark.s3
def test_wrong_keys_are_reported_without_the_keys(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    storage.forget_connections()
    try:
        with pytest.raises(AccessDeniedError, match="access denied") as caught:
            storage.publish(s3.uri + "/x", b"")
        assert "wrong-secret" not in str(caught.value)
    finally:
        storage.forget_connections()


@pytest.mark.s3
def test_a_bucket_that_does_not_exist_is_named_as_such(s3: Bucket) -> None:
    with pytest.raises(LocationNotFoundError, match="its bucket does not exist"):
        storage.publish("s3://no-such-bucket-here/x", b"")
    with pytest.raises(LocationNotFoundError, match="its bucket does not exist"):
        storage.children("s3://no-such-bucket-here")
    assert storage.children(f"{s3.uri}/nothing-in-this-bucket") == []


@pytest.mark.s3
def test_a_folder_that_became_empty_holds_nothing(s3: Bucket) -> None:
    uri = storage.join(s3.uri, "only")
    storage.create(storage.join(uri, "one"), b"1")
    storage.delete(storage.join(uri, "one"))
    assert (storage.children(uri), storage.walk(uri)) == ([], [])


@pytest.mark.s3
@pytest.mark.slow
def test_a_server_that_comes_back_in_time_is_waited_for(s3: Bucket, s3_server: S3Server) -> None:
    storage.publish(s3.uri + "/x", b"kept")
    s3_server.kill()
    timer = threading.Timer(1.0, s3_server.start)
    timer.start()
    try:
        assert storage.read(s3.uri + "/x") == b"kept"
    finally:
        timer.join()


def test_a_store_that_stays_down_is_an_explained_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "BACKOFF", storage.Backoff(attempts=2, first_s=0.01))
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }.items():
        monkeypatch.setenv(name, value)
    storage.forget_connections()
    try:
        with pytest.raises(StorageUnavailableError, match=r"kept failing, 2 times .*it resumes"):
            storage.read("s3://bucket/x")
    finally:
        storage.forget_connections()


def test_swap_compares_first(root: str) -> None:
    uri = storage.join(root, "pointer")
    assert storage.swap(uri, None, b"1") is True
    assert storage.swap(uri, None, b"2") is False
    assert storage.swap(uri, b"0", b"2") is False
    assert storage.swap(uri, b"1", b"2") is True
    assert storage.read(uri) == b"2"
    assert storage.swap(storage.join(root, "missing"), b"1", b"2") is False
    assert storage.children(root) == ["pointer"]


def test_no_swap_of_many_is_lost(root: str) -> None:
    uri = storage.join(root, "counter")
    storage.publish(uri, b"0")

    def add(_: int) -> None:
        while True:
            before = storage.read(uri)
            if storage.swap(uri, before, str(int(before) + 1).encode()):
                return

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(add, range(30)))
    assert storage.read(uri) == b"30"


@pytest.mark.parametrize("key", ["api_key", "apikey", "key", "code", "sig", "se", "anything"])
def test_no_query_of_a_uri_is_printed_unless_it_is_harmless(key: str) -> None:
    assert "hidden" not in storage.redact(f"https://host/a?{key}=hidden&versionId=3 failed")
    assert storage.redact("s3://b/k?versionId=abc") == "s3://b/k?versionId=abc"


@pytest.mark.parametrize(("uri", "extra"), [("gs://b/x", "gcs"), ("az://b/x", "azure"), ("abfs://b/x", "azure")])
def test_a_missing_extra_is_named(uri: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"pip install 'shardlens\[{extra}\]'"):
        storage.normalize(uri)


def test_an_endpoint_without_a_scheme_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9")
    storage.forget_connections()
    try:
        with pytest.raises(StorageError, match=r"AWS_ENDPOINT_URL is '127.0.0.1:9': expected http://"):
            storage.read("s3://bucket/x")
    finally:
        storage.forget_connections()


def test_expired_credentials_are_named() -> None:
    error = storage.explain("s3://b/x", OSError(22, "Bad Request"))
    assert isinstance(error, AccessDeniedError)
    assert "expired" in str(error)


def test_what_is_missing_is_no_passing_fault_of_the_store() -> None:
    began = time.monotonic()
    try:
        raise ConnectionRefusedError("of something else")
    except ConnectionRefusedError:
        with pytest.raises(LocationNotFoundError):
            storage.read("/nowhere/at/all")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    test_of_many_creators_one_wins(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["race"]
