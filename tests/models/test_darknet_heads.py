import math

import pytest
import torch

from shardlens.models.darknet.cfg import parse
from shardlens.models.darknet.heads import Decoder, Level, Selection, read_level
from shardlens.models.darknet.layers import Shape
from shardlens.models.errors import ModelError

ONE_CELL = Level(((16.0, 8.0),), classes=2, scale=1.0, new_coords=False, shape=Shape(7, 1, 1))
IMAGE = Shape(3, 160, 160)
KEEP = Selection(score_threshold=0.05, nms_threshold=0.5, limit=100)


def logit(p):
    return math.log(p / (1 - p))


def anchors(*rows, columns):
    """A raw map of one anchor per cell: its rows of values, cell after cell."""
    return torch.tensor(rows).T.reshape(1, len(rows[0]), -1, columns)


def test_one_cell_by_hand():
    raw = anchors([logit(0.25), logit(0.5), math.log(2), 0.0, logit(0.8), logit(0.5), logit(0.01)], columns=1)
    (found,) = Decoder([ONE_CELL], width=32, height=32).detect([raw], [(100, 200)], KEEP)
    # center (0.25, 0.5), width 2 * 16 / 32, height 8 / 32, in an image 200 wide and 100 high
    assert found["boxes"].tolist() == [pytest.approx([-50, 37.5, 150, 62.5])]
    assert found["labels"].tolist() == [0]
    assert found["scores"].tolist() == pytest.approx([0.4])


def test_boxes_end_at_the_border_where_asked():
    raw = anchors([0.0, 0.0, 3.0, 0.0, 9.0, 9.0, -9.0], columns=1)
    clipped = Selection(0.05, 0.5, 100, clip=True)
    (found,) = Decoder([ONE_CELL], width=32, height=32).detect([raw], [(100, 200)], clipped)
    assert found["boxes"].tolist() == [pytest.approx([0, 37.5, 200, 62.5])]


def test_the_cells_place_and_scale_x_y():
    level = Level(((8.0, 8.0),), 1, scale=1.2, new_coords=False, shape=Shape(6, 2, 3))
    raw = torch.tensor([50.0, 50, 0, 0, 0, 0]).reshape(1, 6, 1, 1).expand(1, 6, 2, 3)
    boxes, objectness, _ = Decoder([level], width=48, height=32)([raw])
    centers = (boxes[0, :, :2] + boxes[0, :, 2:]) / 2
    # a sigmoid of 1 becomes 1.2 - 0.1 = 1.1 cells from the cell's left and top
    assert centers[5].tolist() == pytest.approx([(2 + 1.1) / 3, (1 + 1.1) / 2], rel=1e-4)
    assert objectness.shape == (1, 6)


def test_new_coords_come_without_sigmoid_and_exponential():
    level = Level(((16.0, 8.0),), 1, scale=2.0, new_coords=True, shape=Shape(6, 1, 1))
    raw = anchors([0.75, 0.5, 0.5, 1.0, 0.5, 0.8], columns=1)
    (found,) = Decoder([level], width=32, height=32).detect([raw], [(32, 32)], KEEP)
    # center 2 * 0.75 - 0.5 = 1, width (2 * 0.5)^2 * 16, height (2 * 1)^2 * 8
    assert found["boxes"].tolist() == [pytest.approx([24, 0, 40, 32])]
    assert found["scores"].tolist() == pytest.approx([0.4])


def test_levels_and_anchors_keep_their_order():
    coarse = Level(((8.0, 8.0), (16.0, 16.0)), 1, 1.0, False, Shape(12, 1, 1))
    fine = Level(((4.0, 4.0),), 1, 1.0, False, Shape(6, 2, 2))
    boxes, _, _ = Decoder([coarse, fine], 32, 32)([torch.zeros(1, 12, 1, 1), torch.zeros(1, 6, 2, 2)])
    sides = (boxes[0, :, 2] - boxes[0, :, 0]) * 32
    assert sides.tolist() == pytest.approx([8, 16, 4, 4, 4, 4])
    assert boxes[0, 3, :2].tolist() == pytest.approx([0.75 - 2 / 32, 0.25 - 2 / 32])


def test_suppression_is_per_class_and_an_anchor_may_give_several():
    level = Level(((16.0, 16.0),), 2, 1.0, False, Shape(7, 1, 2))
    same_place = [[logit(0.99), 0.0, 0.0, 0.0, 9.0, 2.0, 1.0], [logit(0.01), 0.0, 0.0, 0.0, 9.0, 3.0, -1.0]]
    (found,) = Decoder([level], 32, 32).detect([anchors(*same_place, columns=2)], [(32, 32)], KEEP)
    assert found["labels"].tolist() == [0, 1]  # of each class the better of the two
    assert found["scores"].tolist() == pytest.approx([0.9525, 0.7310], abs=1e-3)


@pytest.mark.parametrize(("nms", "left"), [(0.3, 1), (0.4, 2)])
def test_suppression_looks_at_the_overlap(nms, left):
    level = Level(((16.0, 16.0),), 1, 1.0, False, Shape(6, 1, 2))
    apart = [[0.0, 0.0, 0.0, 0.0, 9.0, 3.0], [logit(0.0001), 0.0, 0.0, 0.0, 9.0, 2.0]]
    raw = anchors(*apart, columns=2)
    (found,) = Decoder([level], 32, 32).detect([raw], [(32, 32)], Selection(0.05, nms, 100))
    assert len(found["boxes"]) == left  # 16 wide, 8 apart: 8 of 24


def test_the_best_are_kept_and_the_threshold_itself_is_out():
    level = Level(((1.0, 1.0),), 1, 1.0, True, Shape(6, 1, 3))
    raw = anchors(*[[0.5, 0.5, 0.5, 0.5, 1.0, p] for p in (0.25, 0.75, 0.5)], columns=3)
    decoder = Decoder([level], 32, 32)
    (two,) = decoder.detect([raw], [(32, 32)], Selection(0.1, 0.5, 2))
    (above,) = decoder.detect([raw], [(32, 32)], Selection(0.5, 0.5, 9))
    assert two["scores"].tolist() == [0.75, 0.5]
    assert above["scores"].tolist() == [0.75]


def test_nothing_found_is_an_empty_result():
    (found,) = Decoder([ONE_CELL], 32, 32).detect([torch.full((1, 7, 1, 1), -20.0)], [(9, 9)], KEEP)
    assert found["boxes"].shape == (0, 4)
    assert found["labels"].dtype == torch.int64
    assert found["scores"].shape == (0,)


def test_a_level_is_read_with_darknets_defaults():
    section = parse("[net]\n[yolo]\nmask=1\nanchors=1,2,3,4\nclasses=1")[1]
    assert read_level(section, Shape(6, 5, 5), IMAGE) == Level(((3.0, 4.0),), 1, 1.0, False, Shape(6, 5, 5))


def region(body):
    return read_level(parse(f"[net]\n[region]\nsoftmax=1\nclasses=2\n{body}")[1], Shape(14, 5, 10), IMAGE)


def test_a_regions_anchors_are_in_cells():
    level = region("anchors=1,2,0.5,0.25")
    assert level == Level(((16.0, 64.0), (8.0, 8.0)), 2, 1.0, False, Shape(14, 5, 10), softmax=True)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("anchors=1,2", r"line 4, \[region\]: 14 channels come in; 1 anchors of 2 classes need 7"),
        ("", r"\[region\]: it has no anchors \(width, height > 0\)"),
        ("background=1", "background=1 is not supported; remove it"),
        ("coords=5", "softmax=1 coords=5 is not supported, only softmax=1 coords=4"),
    ],
)
def test_a_region_that_cannot_be(body, message):
    with pytest.raises(ModelError, match=message):
        region(body)


def test_a_regions_classes_exclude_each_other():
    level = Level(((16.0, 8.0),), 2, 1.0, False, Shape(7, 1, 1), softmax=True)
    raw = anchors([0.0, 0.0, 0.0, 0.0, logit(0.8), math.log(3), 0.0], columns=1)
    (found,) = Decoder([level], 32, 32).detect([raw], [(32, 32)], KEEP)
    assert found["scores"].tolist() == pytest.approx([0.6, 0.2])  # 0.8 of 3 / 4 and of 1 / 4
    assert found["labels"].tolist() == [0, 1]


@pytest.mark.parametrize("new_coords", [False, True])
def test_encoding_is_the_way_back(new_coords):
    levels = [
        Level(((8.0, 20.0), (16.0, 16.0)), 1, 1.1, new_coords, Shape(12, 2, 3)),
        Level(((4.0, 4.0),), 1, 1.1, new_coords, Shape(6, 4, 6)),
    ]
    decoder = Decoder(levels, 48, 32)
    coded = torch.rand(len(decoder.cell), 6, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    boxes = decoder.boxes(coded)
    again = decoder.encode(boxes, torch.arange(len(coded)))
    torch.testing.assert_close(again[:, :2], decoder.probability(coded[:, :2]))
    torch.testing.assert_close(again[:, 2:], coded[:, 2:4])
