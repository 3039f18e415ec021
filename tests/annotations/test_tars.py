"""Members of tars: where they lie, and tars that are none."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.annotations import tars
from shardlens.pipeline.errors import DatasetError, LocationNotFoundError
from tests.annotations.tiny import put, tar


def write(tmp_path: Path, data: bytes, name: str = "x.tar") -> str:
    return f"{put(tmp_path, {name: data})}/{name}"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_where_the_index_says(tmp_path: Path, form: int) -> None:
    members = {
        "./a.jpg": b"a" * 700,
        "d/é 'b'#%.jpg": b"bb",
        "d/" + "n" * 90 + "/c.jpg": b"",
        "big": bytes(3 << 20),
        "last": b"z",
    }
    uri = write(tmp_path, tar(members, format=form))
    found = tars.index(uri)
    assert [member.name for member in found] == [name.removeprefix("./") for name in members]
    for member, data in zip(found, members.values(), strict=True):
        assert member.uri == uri
        assert storage.read_range(uri, member.offset, member.length) == data


def test_small_blocks_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = write(tmp_path, tar({f"{i}.jpg": bytes([i]) * (i * 97) for i in range(30)}, format=tarfile.PAX_FORMAT))
    found = tars.index(uri)
    monkeypatch.setattr(tars, "BLOCK", 100)
    assert tars.index(uri) == found


def test_hard_links_stand_for_their_member_and_folders_are_none(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as file:
        for name, kind, target in [
            ("d", tarfile.DIRTYPE, ""),
            ("d/a.jpg", tarfile.REGTYPE, ""),
            ("b.jpg", tarfile.LNKTYPE, "./d/a.jpg"),
            ("c.jpg", tarfile.SYMTYPE, "b.jpg"),
        ]:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, target, 3 if kind == tarfile.REGTYPE else 0
            file.addfile(entry, io.BytesIO(b"abc"))
    first, link = tars.index(write(tmp_path, sink.getvalue()))
    assert (first.name, link.name) == ("d/a.jpg", "b.jpg")
    assert (first.offset, first.length) == (link.offset, link.length)


def test_compressed_tars_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"x\.tar is compressed \(gzip\): its members have no byte range"):
        tars.index(write(tmp_path, gzip.compress(tar({"a": b"a"}))))
    with pytest.raises(DatasetError, match=r"x\.tgz is a compressed tar.*unpack it to a plain \.tar first"):
        tars.refuse_compressed("s3://bucket/x.tgz")


def test_damaged_tars_are_told(tmp_path: Path) -> None:
    whole = tar({"a": b"a" * 5000, "b": b"b" * 5000})
    with pytest.raises(DatasetError, match=r"x\.tar is not a whole tar \(unexpected end of data, after 2 files\)"):
        tars.index(write(tmp_path, whole[: 5632 + 512 + 1000]))
    with pytest.raises(DatasetError, match=r"x\.tar is not a whole tar"):
        tars.index(write(tmp_path, b"text" * 500))
    with pytest.raises(DatasetError, match=r"x\.tar is empty: expected a tar"):
        tars.index(write(tmp_path, b""))
    with pytest.raises(LocationNotFoundError, match=r"gone\.tar: not found"):
        tars.index(str(tmp_path / "gone.tar"))
