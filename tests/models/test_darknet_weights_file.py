import struct

import numpy as np
import pytest
import torch

from shardlens.models import build
from shardlens.models.darknet.weights_file import Header
from shardlens.models.errors import WeightsError
from tests.models.samples import CLASSES, TINY_CFG

FLOATS = 4 * 8 + 8 * 3 * 9 + 4 + 4 * 4 + 27 + 27 * 12


@pytest.fixture
def network():
    return build("darknet", CLASSES, {"cfg": TINY_CFG}).eval()


def file(header=(0, 2, 5, 1234567890123), floats=FLOATS):
    values = np.random.default_rng(0).normal(size=floats).astype("<f4")
    return struct.pack("<3iq" if header[0] * 10 + header[1] >= 2 else "<3ii", *header) + values.tobytes()


def test_values_go_biases_scales_means_variances_filters(network):
    data = file()
    network.load_darknet(data)
    values = np.frombuffer(data, "<f4", offset=20)
    convolution, norm, _ = network.layers[0]
    read = [norm.bias, norm.weight, norm.running_mean, norm.running_var, convolution.weight.flatten()]
    assert np.array_equal(torch.cat(read).detach().numpy(), values[: 32 + 216])
    second = network.layers[3][0]
    assert np.array_equal(torch.cat([second.bias, second.weight.flatten()]).detach().numpy(), values[248:268])


@pytest.mark.parametrize("header", [(0, 2, 5, 1234567890123), (0, 1, 0, 32013312), (1, 0, 0, 7)])
def test_what_was_read_is_written_again(network, header):
    data = file(header)
    network.load_darknet(data)
    assert network.header == Header(*header)
    assert network.save_darknet() == data


def test_a_file_cut_short_says_how_much_is_missing_and_where(network):
    data = file()
    with pytest.raises(
        WeightsError,
        match=rf"x: holds {FLOATS - 10} floats, the .cfg needs {FLOATS}: 10 missing, from layer 9 \(27, 12, 1, 1\) on; is it",
    ):
        network.load_darknet(data[:-40], "x")
    with pytest.raises(
        WeightsError, match=rf"holds 5 floats and 2 bytes, .*: {FLOATS - 5} missing, from layer 0 \(8,\) on; is it"
    ):
        network.load_darknet(data[:42])


def test_a_file_too_long_is_of_another_cfg(network):
    data = file(floats=FLOATS + 3)
    with pytest.raises(WeightsError, match=r"3 too many; is it the .weights of another .cfg\?"):
        network.load_darknet(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"short", "is 5 bytes, expected a Darknet"), (b"\x7fELF" * 9, r"version reads \d+.\d+, expected 0.1, 0.2")],
)
def test_what_is_no_weights_file(network, data, message):
    with pytest.raises(WeightsError, match=message):
        network.load_darknet(data, "x")


HEAD = 13 * 3
"""Floats of the last convolution for each class: three anchors' filters and biases."""


@pytest.mark.parametrize(("classes", "channels"), [(80, 255), (1, 18)])
def test_weights_of_other_classes_are_reported_by_their_length(network, classes, channels):
    data = file(floats=FLOATS + (classes - CLASSES) * HEAD)
    many = f"{abs(classes - CLASSES) * HEAD} {'too many' if classes > CLASSES else 'missing'}"
    message = rf"{many}; layer 9 would be \({channels},\) there and is \(27,\) here: is it of other classes"
    with pytest.raises(WeightsError, match=message):
        network.load_darknet(data)


def test_weights_of_other_classes_are_read_by_name_for_transfer(network):
    other = build("darknet", 7, {"cfg": TINY_CFG.replace("filters=27", "filters=36").replace("classes=4", "classes=7")})
    state = network.darknet_state(other.save_darknet())
    expected = {key: value for key, value in other.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], value) for key, value in expected.items())
    assert state["layers.9.0.weight"].shape == (36, 12, 1, 1)


def test_a_backbones_file_ends_after_a_layer(network):
    whole = network.save_darknet()
    state = network.darknet_state(whole[: 20 + 4 * (4 * 8 + 8 * 3 * 9)])
    assert list(state) == [
        f"layers.0.{n}" for n in ("1.bias", "1.weight", "1.running_mean", "1.running_var", "0.weight")
    ]
    assert torch.equal(state["layers.0.0.weight"], network.layers[0][0].weight)
    for cut in (whole[: 20 + 4 * 8], whole[:-1]):
        with pytest.raises(WeightsError, match="missing, from layer"):
            network.darknet_state(cut)
