import pytest
import torch
from torch.nn import functional as F

from shardlens.models import build, find
from shardlens.models.darknet.loss import read_truth
from shardlens.models.errors import ModelError
from tests.models.samples import CLASSES, TINY_CFG, sample_images, sample_target


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build("darknet", CLASSES, {"cfg": TINY_CFG, "score_threshold": 0.001}).eval()


def test_layers_are_joined_as_the_cfg_says(network):
    batch = torch.rand(2, 3, 32, 64)
    first, head = network.layers[0], network.layers[9]
    base = first(batch)
    pooled = F.max_pool2d(F.pad(base, (0, 1, 0, 1), value=-torch.inf), 2, 1)
    half = pooled[:, 4:]
    total = network.layers[3](half) + half
    wide = F.max_pool2d(F.interpolate(total, scale_factor=2), 2)
    (raw,) = network.raw(batch)
    assert raw.shape == (2, 27, 16, 32)
    torch.testing.assert_close(raw, head(torch.cat([wide, pooled], dim=1)))


def test_images_are_stretched_without_antialiasing(network):
    (image,) = sample_images((45, 33))
    stretched = F.interpolate(image[None], (32, 64), mode="bilinear", align_corners=False, antialias=False)
    (found,) = network([image])
    (expected,) = network.decoder.detect(network.raw(stretched), [(45, 33)], network.selection)
    assert torch.equal(found["boxes"], expected["boxes"])
    assert len(found["boxes"]) > 0
    assert find("darknet").input_rule(network).shape(45, 33) == (32, 64)


def test_options_arrive(network):
    options = {"cfg": TINY_CFG, "nms_threshold": "0.1", "detections_per_image": "3", "clip": "yes"}
    selection = build("darknet", CLASSES, options).selection
    assert (selection.score_threshold, selection.nms_threshold, selection.limit, selection.clip) == (0.05, 0.1, 3, True)
    assert network.selection.nms_threshold == 0.45


def test_half_precision_gives_boxes_in_full(network):
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = network(sample_images((32, 64)))
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    (again,) = network.bfloat16()(sample_images((32, 64)))
    assert again["boxes"].dtype == torch.float32


def test_memory_of_a_layer_is_freed_after_its_last_reader(network):
    # 0 is read by 1, 1 by 2 and 8, 2 by 3 and 4, ...; 10 is the head
    assert network.done == [[-1], [0], [], [], [2, 3], [4], [5], [6], [1, 7], [8], [9]]


def test_training_needs_targets(network):
    with pytest.raises(ModelError, match=r"in training needs targets \(boxes and labels of each image\)"):
        network.train()(sample_images((8, 8)))


def test_training_sees_what_evaluation_sees():
    network = build("darknet", CLASSES, {"cfg": TINY_CFG.replace("probability=.2", "probability=0")})
    images, targets = sample_images((45, 33), (20, 70)), [sample_target(45, 33, 2), sample_target(20, 70, 0)]
    losses = network.train()(images, targets)
    batch = torch.cat([F.interpolate(image[None], (32, 64), mode="bilinear") for image in images])
    truth = read_truth(targets, [(45, 33), (20, 70)])
    expected = network.loss(network.decoder, network.decoder.rows(network.raw(batch)), truth)
    assert losses.keys() == {"box", "objectness", "classes"}
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name])


def test_a_new_network_expects_little(network):
    _, objectness, _ = network.decoder(network.raw(torch.rand(1, 3, 32, 64)))
    assert objectness.mean().item() == pytest.approx(0.01, abs=0.002)


def test_the_text_of_its_cfg_makes_it_again(network):
    again = build("darknet", CLASSES, {"cfg": network.cfg})
    assert again.cfg == network.cfg
    assert again.state_dict().keys() == network.state_dict().keys()


def test_levels_must_speak_of_the_same_classes():
    first = TINY_CFG.replace("filters=27", "filters=30").replace("classes=4", "classes=5")
    second = "[route]\nlayers=-3\n" + TINY_CFG[TINY_CFG.rindex("[convolutional]") :]
    with pytest.raises(
        ModelError,
        match=r"layers are: \[yolo\] classes=4 new_coords=0, \[yolo\] classes=5 .*expected at least one, and all alike",
    ):
        build("darknet", CLASSES, {"cfg": first + second})


def test_two_levels_are_read_together():
    second = "[route]\nlayers=-3\n[maxpool]\nstride=2\n" + TINY_CFG[TINY_CFG.rindex("[convolutional]") :]
    network = build("darknet", CLASSES, {"cfg": TINY_CFG + second, "score_threshold": 0.001}).eval()
    assert [tuple(level.shape) for level in network.raw(torch.rand(1, 3, 32, 64))] == [(1, 27, 16, 32), (1, 27, 8, 16)]
    assert len(network.decoder.cell) == 3 * (16 * 32 + 8 * 16)
    assert len(network(sample_images((20, 20)))[0]["boxes"]) > 0


def test_nothing_reads_a_yolo_layer():
    again = TINY_CFG[TINY_CFG.rindex("[convolutional]") :]
    with pytest.raises(ModelError, match=r"line 56, \[convolutional\]: layer 11 reads a \[yolo\] layer"):
        build("darknet", CLASSES, {"cfg": TINY_CFG + again})


def test_the_cfg_is_required():
    with pytest.raises(ModelError, match="darknet needs the option cfg"):
        build("darknet", CLASSES)
