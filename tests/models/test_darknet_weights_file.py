import struct

import numpy as np
import pytest
import torch

from models import build
from models.darknet.weights_file import Header
from models.errors import WeightsError
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
        match=rf"x: holds {FLOATS - 10} floats, the .cfg needs {FLOATS}: 10 missing, from layer 9 on",
    ):
        network.load_darknet(data[:-40], "x")
    with pytest.raises(
        WeightsError, match=rf"holds 5 floats and 2 bytes, .*: {FLOATS - 5} missing, from layer 0 on; is it"
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
