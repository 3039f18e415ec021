import argparse
import hashlib
import io
import json
import pickle
import struct

import pytest
import safetensors.torch
import torch
from torch import nn

from shardlens.models import build
from shardlens.models.errors import WeightsError
from shardlens.pipeline.networks.weights import Checkpoint, load, read_checkpoint, save, verify
from tests.models.samples import CLASSES, TINY_CFG

OPTIONS = {"depth": 2, "width": 4, "share": 0.5, "deep": True}
NOTE = Checkpoint("unet", OPTIONS, ("__background__", "Käse", "x"), (24, 40))


def unet(seed=0, classes=3, **options):
    torch.manual_seed(seed)
    return build("unet", classes, {"depth": 2, "width": 4, **options})


def torch_file(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: torch_file(s),
        lambda s: torch_file(dict(s)),
        lambda s: torch_file({"model": s, "epoch": 3}),
        lambda s: torch_file({"state_dict": s}),
        lambda s: torch_file({f"module.{k}": v for k, v in s.items()}),
        lambda s: safetensors.torch.save(dict(s)),
    ],
)
def test_state_dicts_are_read_as_training_scripts_write_them(wrap):
    source, target = unet(0), unet(1)
    assert not equal(source, target)
    load(target, wrap(source.state_dict()), "x")
    assert equal(source, target)


def test_torchs_older_format_is_read():
    buffer = io.BytesIO()
    torch.save(unet(0).state_dict(), buffer, _use_new_zipfile_serialization=False)
    target = unet(1)
    load(target, buffer.getvalue(), "x")
    assert equal(unet(0), target)


def test_a_model_keeps_its_own_dtype():
    target = unet(1)
    load(
        target, torch_file({k: v.half() if v.is_floating_point() else v for k, v in unet(0).state_dict().items()}), "x"
    )
    assert target.classifier.weight.dtype == torch.float32
    torch.testing.assert_close(target.classifier.weight, unet(0).classifier.weight, rtol=1e-3, atol=1e-4)


def test_norms_without_counters_are_whole():
    state = {k: v for k, v in unet(0).state_dict().items() if not k.endswith("num_batches_tracked")}
    target = unet(1)
    load(target, torch_file(state), "x")
    assert equal(unet(0), target)


def test_darknets_weights_go_to_a_model_that_takes_them():
    torch.manual_seed(0)
    source = build("darknet", CLASSES, {"cfg": TINY_CFG})
    target = build("darknet", CLASSES, {"cfg": TINY_CFG})
    load(target, source.save_darknet(), "x")
    assert equal(source, target)
    with pytest.raises(
        WeightsError,
        match=r"yolo.weights: is a Darknet .weights file, which only these models take: darknet, yolov2, .*yolo9000;",
    ):
        load(unet(), source.save_darknet(), "yolo.weights")
    with pytest.raises(WeightsError, match=r"cut.weights: holds .* missing, from layer"):
        load(target, source.save_darknet()[:-8], "cut.weights")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"\n<!DOCTYPE html><html>Not found</html>", "is an HTML or XML page"),
        (b'{"message": "denied"}', "is JSON"),
        (b"[net]\nwidth=3\n", "is text, perhaps a Darknet .cfg, which belongs in the option cfg"),
        (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
        (b"\x1f\x8b\x08\x00", "is a gzip archive"),
        (b"\xff\xd8\xff\xe0JFIF", r"is of no known kind \(8 bytes, beginning with ff d8 ff e0"),
    ],
)
@pytest.mark.parametrize("name", ["unet", "darknet"])
def test_what_is_no_weights_file_is_told(name, data, found):
    if name == "darknet" and "no known kind" in found:
        found = "is 8 bytes, expected a Darknet .weights file"
    model = unet() if name == "unet" else build("darknet", CLASSES, {"cfg": TINY_CFG})
    with pytest.raises(WeightsError, match=f"s3://b/x: {found}"):
        load(model, data, "s3://b/x")


@pytest.mark.parametrize("keep", [9, 100, -1])
def test_a_file_cut_short_is_told(keep):
    for data in (torch_file(unet().state_dict()), save(unet(), NOTE)):
        with pytest.raises(WeightsError, match=r"x: is damaged or cut short \(\d+ bytes\): .*; fetch it again"):
            load(unet(), data[:keep], "x")


class Bomb:
    """Runs code when it is unpickled by a reader that lets it."""

    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize("content", [Bomb(), {"model": {}, "args": argparse.Namespace(lr=1)}, nn.Linear(1, 1)])
def test_no_code_is_executed(content):
    with pytest.raises(WeightsError, match=r"x: holds more than tensors.*save the model's state_dict\(\)"):
        load(unet(), torch_file(content), "x")
    with pytest.raises(WeightsError, match="x: "):
        load(unet(), pickle.dumps(content, protocol=2), "x")


@pytest.mark.parametrize(
    ("content", "held"),
    [({"epoch": 3, "loss": 0.5}, "a dict with epoch, loss"), (torch.zeros(3), "Tensor"), ({}, "a dict with ")],
)
def test_a_file_without_a_state_dict_says_what_it_holds(content, held):
    with pytest.raises(WeightsError, match=f"x: holds {held}, expected a state dict of tensors"):
        load(unet(), torch_file(content), "x")


def test_a_checkpoint_says_what_it_belongs_to():
    data = save(unet(0), NOTE)
    assert read_checkpoint(data) == NOTE
    assert data == save(unet(0), NOTE)
    assert read_checkpoint(safetensors.torch.save({"a": torch.zeros(1)})) is None
    assert read_checkpoint(torch_file({})) is None
    assert read_checkpoint(b"") is None


@pytest.mark.parametrize(
    "note",
    ["no json", json.dumps({"model": "unet"}), json.dumps([1]), json.dumps({"model": "", "options": {}, "labels": []})],
)
def test_a_damaged_checkpoint_is_told(note):
    data = safetensors.torch.save({"a": torch.zeros(1)}, metadata={"shardlens": note})
    with pytest.raises(WeightsError, match=r"checkpoint's header is damaged|needs a model and the names"):
        read_checkpoint(data)


def test_a_header_longer_than_the_file_is_told():
    with pytest.raises(WeightsError, match="header is damaged"):
        read_checkpoint(struct.pack("<Q", 5000) + b'{"__metadata__": ')


def test_digests():
    digest = hashlib.sha256(b"weights").hexdigest()
    verify(b"weights", digest.upper(), "x")
    verify(b"weights", digest[:8], "x")
    with pytest.raises(
        WeightsError, match=rf"x: SHA-256 is {digest}, expected 0{{64}}; the file \(7 bytes\) was changed"
    ):
        verify(b"weights", "0" * 64, "x")
    with pytest.raises(WeightsError, match="'xyz' is no SHA-256: expected 8 to 64 hexadecimal digits"):
        verify(b"weights", "xyz", "x")
