import argparse
import collections
import contextlib
import datetime
import hashlib
import io
import json
import math
import pathlib
import pickle
import random
import struct
import types
import warnings

import numpy as np
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


def test_norms_without_counters_are_complete():
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
def test_what_is_no_weights_file_is_reported(name, data, found):
    if name == "darknet" and "no known kind" in found:
        found = "is 8 bytes, expected a Darknet .weights file"
    model = unet() if name == "unet" else build("darknet", CLASSES, {"cfg": TINY_CFG})
    with pytest.raises(WeightsError, match=f"s3://b/x: {found}"):
        load(model, data, "s3://b/x")


@pytest.mark.parametrize("keep", [9, 100, -1])
def test_a_file_cut_short_is_reported(keep):
    for data in (torch_file(unet().state_dict()), save(unet(), NOTE)):
        with pytest.raises(WeightsError, match=r"x: is damaged or cut short \(\d+ bytes\): .*; fetch it again"):
            load(unet(), data[:keep], "x")


class Bomb:
    """Runs code when it is unpickled by a reader that lets it."""

    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize("content", [Bomb(), {"model": {}, "args": Bomb()}, nn.Linear(1, 1)])
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
def test_a_damaged_checkpoint_is_reported(note):
    data = safetensors.torch.save({"a": torch.zeros(1)}, metadata={"shardlens": note})
    with pytest.raises(WeightsError, match=r"checkpoint's header is damaged|needs a model and the names"):
        read_checkpoint(data)


def test_a_header_longer_than_the_file_is_reported():
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


class Plain(nn.Module):
    """A network without a name of its own that begins like a prefix."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
        self.head = nn.Linear(2, 2)


def plain(seed=0):
    torch.manual_seed(seed)
    return Plain()


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.", "module._orig_mod.", "model.module."])
def test_prefixes_are_taken_off_and_reported(prefix, kind):
    state = prefixed(plain().state_dict(), prefix)
    data = torch_file(state) if kind == "torch" else safetensors.torch.save(state)
    target = plain(1)
    notes = load(target, data, "x")
    assert equal(plain(), target)
    assert "".join(note.split("'")[1] for note in notes) == prefix


def test_a_network_whose_names_begin_like_a_prefix_keeps_them():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = plain()

    source = Outer()
    target = Outer()
    nn.init.zeros_(target.model.head.weight)
    assert load(target, torch_file(source.state_dict()), "x") == ()
    assert equal(source, target)


def test_averaged_weights_and_parts_that_were_compiled():
    averaged = {"n_averaged": torch.tensor(3), **prefixed(plain().state_dict(), "module.")}
    target = plain(1)
    assert load(target, torch_file({"model_ema": averaged, "epoch": 3}), "x") == (
        "n_averaged left out",
        "prefix 'module.' taken off",
    )
    assert equal(plain(), target)
    compiled = {name.replace("backbone.", "backbone._orig_mod."): t for name, t in plain().state_dict().items()}
    target = plain(1)
    assert load(target, torch_file(compiled), "x") == ("'_orig_mod.' taken out of names",)
    assert equal(plain(), target)


@pytest.mark.parametrize("key", ["net", "weights", "model_ema", "model_state_dict", "params"])
def test_keys_under_which_scripts_keep_weights(key):
    target = plain(1)
    load(target, torch_file({"epoch": 1, key: plain().state_dict()}), "x")
    assert equal(plain(), target)


def test_of_two_sets_of_weights_the_choice_is_reported():
    target = plain(1)
    notes = load(target, torch_file({"model": plain().state_dict(), "model_ema": plain(2).state_dict()}), "x")
    assert notes == ("weights taken from 'model', not from 'model_ema'",)
    assert equal(plain(), target)


HARMLESS = {
    "args": argparse.Namespace(lr=0.1, path=pathlib.PosixPath("/x")),
    "simple": types.SimpleNamespace(a=1),
    "best": np.float64(0.5),
    "step": np.int64(3),
    "ok": np.bool_(True),
    "half": np.float32(0.25),
    "curve": np.arange(3.0),
    "at": datetime.datetime(2026, 1, 1),
    "order": collections.OrderedDict(a=1),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_settings_next_to_the_weights_are_passed_over(name, zipped):
    buffer = io.BytesIO()
    content = {"model": plain().state_dict(), "optimizer": {"state": {0: {}}}, name: HARMLESS[name]}
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    target = plain(1)
    load(target, buffer.getvalue(), "x")
    assert equal(plain(), target)


def test_a_type_that_is_not_known_to_be_harmless_is_named():
    with pytest.raises(
        WeightsError, match=r"holds more than tensors.*it would need shardlens\.models\.segmentation\.unet\.UNet"
    ):
        load(plain(), torch_file({"model": plain().state_dict(), "whole": unet()}), "x")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("write", [torch_file, safetensors.torch.save])
def test_weights_that_are_not_finite_are_refused_by_name(value, write):
    state = plain().state_dict()
    state["backbone.1.running_var"][1] = value
    with pytest.raises(
        WeightsError, match=r"x: 1 of its 9 tensors hold NaN or infinity: backbone\.1\.running_var \(1 of 2 values\)"
    ):
        load(plain(1), write(dict(state)), "x")


def test_darknets_weights_that_are_not_finite_are_refused():
    source = build("darknet", CLASSES, {"cfg": TINY_CFG})
    next(source.parameters()).data.fill_(math.nan)
    with pytest.raises(WeightsError, match=r"y\.weights: .* tensors hold NaN or infinity: layers\.0"):
        load(build("darknet", CLASSES, {"cfg": TINY_CFG}), source.save_darknet(), "y.weights")


def header(text, body=b""):
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    "data",
    [
        header(b'{"a":{"dtype":"Q4_K","shape":[1],"data_offsets":[0,4]}}', b"abcd"),
        header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', b"abcd"),
        header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"ab"),
        header(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', b"abcd"),
        header(b'{"a":' * 20_000),
        header(b'{"__metadata__":null}'),
        header(b'{"__metadata__":[1]}'),
        header(b'{"__metadata__":{"shardlens":"[[[[]]]]"}}'),
        header(b'{"__metadata__":{"shardlens":"{\\"model\\":3,\\"options\\":{},\\"labels\\":[1]}"}}'),
        header(
            b'{"__metadata__":{"shardlens":"{\\"model\\":\\"unet\\",\\"options\\":{},\\"labels\\":[\\"a\\"],\\"image_size\\":[1e999,1]}"}}'
        ),
        header(
            b'{"__metadata__":{"shardlens":"{\\"model\\":\\"unet\\",\\"options\\":{\\"a\\":[1]},\\"labels\\":[\\"a\\"]}"}}'
        ),
        header(
            b'{"__metadata__":{"shardlens":"{\\"model\\":\\"unet\\",\\"options\\":{},\\"labels\\":[\\"a\\"],\\"image_size\\":[1]}"}}'
        ),
        header(b"{" + b"1" * 5000 + b":1}"),
    ],
)
def test_odd_safetensors_headers_are_explained(data):
    with pytest.raises(WeightsError):
        _ = read_checkpoint(data) or load(plain(), data, "x")


def test_keys_that_are_no_text_and_tensors_of_odd_kinds_are_explained():
    for state in ({0: torch.zeros(1)}, {("a", 1): torch.zeros(1)}):
        with pytest.raises(WeightsError, match="expected a state dict of tensors"):
            load(plain(), torch_file(state), "x")
    state = plain().state_dict()
    for odd in (torch.eye(2).to_sparse(), torch.zeros(2, 2, dtype=torch.complex64)):
        with pytest.raises(WeightsError, match="x: "):
            load(plain(), torch_file({**state, "head.weight": odd}), "x")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damage_anywhere_is_explained(kind):
    buffer = io.BytesIO()
    if kind == "safetensors":
        data = save(unet(), NOTE)
    else:
        torch.save(plain().state_dict(), buffer, _use_new_zipfile_serialization=kind == "zip")
        data = buffer.getvalue()
    generator = random.Random(kind)
    for trial in range(150):
        damaged = bytearray(data)
        for _ in range(generator.choice((1, 1, 3, 20))):
            place = generator.randrange(min(len(data), generator.choice((64, 600, len(data)))))
            damaged[place] = generator.randrange(256)
        cut = damaged if trial % 3 else damaged[: generator.randrange(len(damaged))]
        with contextlib.suppress(WeightsError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read_checkpoint(bytes(cut))
            load(plain() if kind != "safetensors" else unet(), bytes(cut), "x")
