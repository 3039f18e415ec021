"""Members of tars: where they lie, and tars that are none."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from shardlens.pipeline import storage
from shardlens.pipeline.annotations import tars
from shardlens.pipeline.errors import DatasetError, LocationNotFoundError
from tests.annotations.tiny import jpeg, put, take, tar


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
    found = tars.contents(uri).members
    assert [member.name for member in found] == [name.removeprefix("./") for name in members]
    for member, data in zip(found, members.values(), strict=True):
        assert member.uri == uri
        assert storage.read_range(uri, member.offset, member.length) == data


def test_small_blocks_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = write(tmp_path, tar({f"{i}.jpg": bytes([i]) * (i * 97) for i in range(30)}, format=tarfile.PAX_FORMAT))
    found = tars.contents(uri)
    monkeypatch.setattr(tars, "BLOCK", 100)
    assert tars.contents(uri) == found


def test_links_stand_for_their_member_and_folders_are_none(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as file:
        for name, kind, target in [
            ("d", tarfile.DIRTYPE, ""),
            ("d/a.jpg", tarfile.REGTYPE, ""),
            ("b.jpg", tarfile.LNKTYPE, "./d/a.jpg"),
            ("c.jpg", tarfile.SYMTYPE, "d/a.jpg"),
            ("d/e.jpg", tarfile.SYMTYPE, "../../../etc/passwd"),
        ]:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, target, 3 if kind == tarfile.REGTYPE else 0
            file.addfile(entry, io.BytesIO(b"abc"))
    members = tars.contents(write(tmp_path, sink.getvalue())).members
    assert [member.name for member in members] == ["d/a.jpg", "b.jpg", "c.jpg"]
    assert len({(member.offset, member.length) for member in members}) == 1


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_sparse_files_are_left_out_and_named(tmp_path: Path, form: str) -> None:
    with (tmp_path / "hole.jpg").open("wb") as file:
        file.truncate(8 << 20)
        file.write(b"end")
    (tmp_path / "a.jpg").write_bytes(jpeg())
    command = ["tar", "--sparse", f"--format={form}", "-cf", "x.tar", "hole.jpg", "a.jpg"]
    subprocess.run(command, cwd=tmp_path, check=True)
    found = tars.contents(str(tmp_path / "x.tar"))
    assert ([member.name for member in found.members], found.sparse, found.damage) == (["a.jpg"], ("hole.jpg",), None)
    report, _ = take(tmp_path, str(tmp_path / "x.tar"))
    (problem,) = (each for each in report.problems if each.kind == "sparse-file")
    assert problem.examples == (f"hole.jpg in {tmp_path}/x.tar",)


def test_compressed_tars_are_refused(tmp_path: Path) -> None:
    damage = tars.contents(write(tmp_path, gzip.compress(tar({"a": b"a"})))).damage
    assert damage is not None
    assert "x.tar is compressed (gzip): its members have no byte range" in damage
    with pytest.raises(DatasetError, match=r"x\.tgz is a compressed tar.*unpack it to a plain \.tar first"):
        tars.refuse_compressed("s3://bucket/x.tgz")


@pytest.mark.parametrize("length", [5632 + 512 + 1000, 5632 + 512, 5632 + 100])
def test_the_members_before_the_damage_are_listed(tmp_path: Path, length: int) -> None:
    cut = tars.contents(write(tmp_path, tar({"a": b"a" * 5000, "b": b"b" * 5000})[:length]))
    assert [member.name for member in cut.members] == ["a"]
    assert (cut.damage or "").endswith("after 1 files): copy it again to its end")


def test_what_is_no_tar(tmp_path: Path) -> None:
    assert "x.tar is incomplete or no tar" in str(tars.contents(write(tmp_path, b"text" * 500)).damage)
    assert str(tars.contents(write(tmp_path, b"")).damage).endswith("x.tar is empty: expected a tar")
    with pytest.raises(LocationNotFoundError, match=r"gone\.tar: not found"):
        tars.contents(str(tmp_path / "gone.tar"))
