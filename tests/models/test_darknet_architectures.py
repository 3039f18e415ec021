import numpy as np
import pytest
import torch
from torch import nn

from shardlens.models import build
from shardlens.models.darknet import architectures
from shardlens.models.darknet.architectures import Plan, read_anchors
from shardlens.models.darknet.loss import Truth
from shardlens.models.darknet.network import DarknetDetector
from shardlens.models.darknet.zoo import COCO, VARIANTS
from shardlens.models.errors import ModelError
from tests.models.small import SMALL

NAMES = [variant.name for variant in VARIANTS]
FLOATS = {
    "yolov2": 50_983_561,
    "yolov2_tiny": 11_237_145,
    "yolov3": 62_001_757,
    "yolov3_spp": 63_052_381,
    "yolov3_tiny": 8_858_734,
    "yolov4_tiny": 6_062_814,
}
"""What the published .weights hold, statistics of the normalizations included."""
CELLS = {"yolov2": [13], "yolov2_tiny": [13], "yolov3": [13, 26, 52], "yolov3_spp": [13, 26, 52]}


def published(name):
    """The network for COCO, without memory."""
    with torch.device("meta"):
        return build(name, len(COCO)).eval()


def small(name, **options):
    torch.manual_seed(0)
    model = build(name, 3, {**SMALL[name].options, **options}).eval()
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        for values in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            nn.init.uniform_(values, 0.1, 0.9)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_the_published_weights_hold_as_many_floats(name):
    state = published(name).state_dict()
    assert sum(t.numel() for key, t in state.items() if not key.endswith("num_batches_tracked")) == FLOATS[name]


@pytest.mark.parametrize("name", NAMES)
def test_each_predicts_at_its_strides(name):
    maps = published(name).raw(torch.empty(1, 3, 416, 416, device="meta"))
    channels = 425 if name.startswith("yolov2") else 255
    assert [tuple(level.shape) for level in maps] == [(1, channels, n, n) for n in CELLS.get(name, [13, 26])]


@pytest.mark.parametrize("name", NAMES)
def test_opencv_reads_the_same_network_from_cfg_and_weights(name, tmp_path):
    cv2 = pytest.importorskip("cv2")
    model = small(name)
    (tmp_path / "a.cfg").write_text(model.cfg)
    (tmp_path / "a.weights").write_bytes(model.save_darknet())
    other = cv2.dnn.readNetFromDarknet(str(tmp_path / "a.cfg"), str(tmp_path / "a.weights"))
    batch = torch.rand(1, 3, 64, 64)
    other.setInput(batch.numpy())
    theirs = other.forward([f"conv_{i - 1}" for i in model.heads])
    with torch.inference_mode():
        ours = model.raw(batch)
    for mine, others in zip(ours, theirs, strict=True):
        assert others.std() > 0.001
        assert np.abs(mine.numpy() - others).max() < 1e-4 * np.abs(others).max()


def test_opencv_reads_a_region_as_the_same_boxes_and_scores(tmp_path):
    cv2 = pytest.importorskip("cv2")
    model = small("yolov2_tiny", ignore_threshold=0.1)  # which OpenCV takes for the least score
    last = model.layers[model.heads[0] - 1][0]
    nn.init.normal_(last.weight, std=0.1)
    nn.init.zeros_(last.bias)
    (tmp_path / "a.cfg").write_text(model.cfg)
    (tmp_path / "a.weights").write_bytes(model.save_darknet())
    other = cv2.dnn.readNetFromDarknet(str(tmp_path / "a.cfg"), str(tmp_path / "a.weights"))
    batch = torch.rand(1, 3, 64, 64)
    other.setInput(batch.numpy())
    theirs = torch.from_numpy(other.forward())
    with torch.inference_mode():
        boxes, objectness, classes = model.decoder(model.raw(batch))
    order = torch.arange(len(theirs)).reshape(5, -1).T.flatten()  # OpenCV goes through anchors last
    ours = torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], dim=2)[0, order]
    torch.testing.assert_close(ours, theirs[:, :4], rtol=1e-4, atol=1e-5)
    scores = (objectness[..., None] * model.decoder.class_probability(classes))[0, order]
    shown = theirs[:, 5:] > 0  # OpenCV sets lower ones to 0
    assert shown.sum() > 5
    torch.testing.assert_close(scores[shown], theirs[:, 5:][shown], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_weights_written_are_read_back_byte_for_byte(name):
    data = small(name).save_darknet()
    again = small(name, width=0.125)
    nn.init.zeros_(again.layers[0][0].weight)
    again.load_darknet(data)
    assert again.save_darknet() == data


def test_yolov4_tinys_levels_share_an_anchor_as_published():
    masks = [s.integers("mask") for s in sections("yolov4_tiny", architectures.TINY_ANCHORS) if s.kind == "yolo"]
    assert masks == [(3, 4, 5), (1, 2, 3)]
    own = [s.integers("mask") for s in sections("yolov4_tiny", ((1, 1), (2, 2), (3, 3), (4, 4))) if s.kind == "yolo"]
    assert own == [(2, 3), (0, 1)]


def test_yolov4_tinys_shared_anchor_is_matched_on_both_levels():
    published = small("yolov4_tiny", input_size=416).loss
    side = torch.tensor([81.0, 82.0]) / 416
    thing = Truth(torch.tensor([0]), torch.cat([0.5 - side / 2, 0.5 + side / 2])[None], torch.tensor([0]))
    assert published.match(thing, 3 * (13**2 + 26**2)).truth.tolist() == [0, 0]


def sections(name, anchors):
    return getattr(architectures, name)(Plan(2, 64, 0.1, anchors))


def test_own_anchors_are_spread_over_the_levels_by_area():
    model = small("yolov3_tiny", anchors="30,30, 5,9 ,16,16,8,8")
    assert [round(side, 3) for side in (model.loss.prior * 64).flatten().tolist()] == [16, 16, 30, 30, 5, 9, 8, 8]
    region = small("yolov2", anchors="48,32")
    torch.testing.assert_close(region.loss.prior, torch.tensor([[0.75, 0.5]]))


def test_the_published_regions_anchors_are_darknets():
    region = next(s for s in sections("yolov2", architectures.REGION_ANCHORS) if s.kind == "region")
    expected = [0.57273, 0.677385, 1.87446, 2.06253, 3.33843, 5.47434, 7.88282, 3.52778, 9.77052, 9.16828]
    assert region.numbers("anchors") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": 100}, "option input_size is 100; it must be a multiple of 32"),
        ({"input_size": 16}, "option input_size is 16; it must be at least 32"),
        ({"anchors": "1,2,3"}, "option anchors is '1,2,3'; expected widths and heights in pixels, such as 10,14,23,27"),
        ({"anchors": "1,2,3,x"}, "expected widths and heights"),
        ({"anchors": "inf,2,3,4"}, "option anchors is 'inf,2,3,4'; expected widths and heights"),
        ({"anchors": "1,nan,3,4"}, "option anchors is '1,nan,3,4'; expected widths and heights"),
        ({"box_weight": -1}, "option box_weight is -1.0; it must be at least 0"),
        ({"anchors": "1,2,3,4,5,6"}, "3 anchors on 2 levels: expected as many on each"),
        ({"box_loss": "l1"}, "option box_loss is 'l1'; expected one of mse, iou, giou, diou, ciou"),
        ({"width": 0}, "option width is 0"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ModelError, match=message):
        build("yolov3_tiny", 3, options)


@pytest.mark.parametrize(
    ("name", "box", "weight", "ignore"),
    [
        ("yolov2", "mse", 1, 0.6),
        ("yolov2_tiny", "mse", 1, 0.6),
        ("yolov3", "mse", 1, 0.7),
        ("yolov3_spp", "mse", 1, 0.7),
        ("yolov3_tiny", "mse", 1, 0.7),
        ("yolov4_tiny", "ciou", 0.07, 0.7),
    ],
)
def test_the_losses_are_as_published_unless_asked_otherwise(name, box, weight, ignore):
    terms = small(name).loss.terms[0]
    assert set(small(name).loss.terms) == {terms}
    assert (terms.box, terms.box_weight, terms.ignore_threshold) == (box, weight, ignore)
    assert (terms.rescore, terms.object_weight) == (name == "yolov2", 5 if name.startswith("yolov2") else 1)
    asked = small(name, box_loss="giou", box_weight=2, ignore_threshold=0.4).loss.terms[0]
    assert (asked.box, asked.box_weight, asked.ignore_threshold) == ("giou", 2, 0.4)


def test_a_burn_in_counts_images_in_the_weights():
    model = small("yolov2_tiny", burn_in=100)
    assert model.state_dict()["loss.seen"].item() == 0
    model.train()([torch.rand(3, 9, 9)] * 2, [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}] * 2)
    assert model.state_dict()["loss.seen"].item() == 2


def test_names_of_the_published_labels():
    assert (len(COCO), COCO[0], COCO[79]) == (80, "person", "toothbrush")
    assert read_anchors("3,4,1,2") == ((1, 2), (3, 4))
    assert isinstance(small("yolov3_tiny"), DarknetDetector)
