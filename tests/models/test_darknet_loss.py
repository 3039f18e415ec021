import math

import pytest
import torch

from shardlens.models import build
from shardlens.models.darknet.cfg import parse
from shardlens.models.darknet.heads import Decoder, Level
from shardlens.models.darknet.layers import Shape
from shardlens.models.darknet.loss import DarknetLoss, Truth, best_overlaps, read_truth
from shardlens.models.darknet.terms import Terms, read_terms
from shardlens.models.errors import ModelError

COARSE = Level(((32.0, 32.0), (48.0, 24.0)), classes=2, scale=1.0, new_coords=False, shape=Shape(14, 2, 2))
FINE = Level(((8.0, 8.0),), classes=2, scale=1.0, new_coords=False, shape=Shape(7, 4, 4))
REGION = Level(((16.0, 16.0),), classes=2, scale=1.0, new_coords=False, shape=Shape(7, 2, 2), softmax=True)
SIDE = 64
ANCHORS = 2 * 4 + 16


def truth(*objects):
    """(image, label, x center, y center, width, height), all of a 64 pixel image."""
    rows = torch.tensor([[x - w / 2, y - h / 2, x + w / 2, y + h / 2] for _, _, x, y, w, h in objects]).reshape(-1, 4)
    image, labels = (torch.tensor([o[i] for o in objects], dtype=torch.int64) for i in (0, 1))
    return Truth(image, rows / SIDE, labels)


def criterion(*levels, **terms):
    return DarknetLoss(levels, SIDE, SIDE, Terms(**terms)), Decoder(levels, SIDE, SIDE)


def values(images=1, anchors=ANCHORS, fields=7):
    """Raw zeros: every box is its anchor in the middle of its cell, every probability one half."""
    return torch.zeros(images, anchors, fields, requires_grad=True)


def losses(loss, decoder, raw, objects):
    return {name: part.item() for name, part in loss(decoder, raw, objects).items()}


@pytest.mark.parametrize(
    ("thing", "slot"),
    [
        ((0, 0, 10, 10, 30, 34), 0),  # the square anchor, first cell
        ((0, 0, 40, 10, 30, 34), 1),  # column 1, row 0
        ((0, 0, 10, 40, 50, 20), 4 + 2),  # the wide anchor, column 0, row 1
        ((0, 0, 40, 20, 9, 7), 8 + 1 * 4 + 2),  # the finer level: column 2, row 1
        ((1, 0, 40, 20, 9, 7), ANCHORS + 8 + 1 * 4 + 2),  # the same in the second image
        ((0, 0, 64, 64, 9, 7), 8 + 15),  # a center on the border belongs to the last cell
    ],
)
def test_an_object_is_matched_to_the_anchor_of_the_likest_shape(thing, slot):
    loss, _ = criterion(COARSE, FINE)
    assert loss.match(truth(thing), ANCHORS).slot.tolist() == [slot]


def test_an_anchor_that_two_levels_share_is_matched_on_both():
    shared = Level(((8.0, 8.0), (32.0, 32.0)), classes=2, scale=1.0, new_coords=False, shape=Shape(14, 4, 4))
    loss, decoder = criterion(COARSE, shared)
    thing = (0, 1, 40, 20, 30, 34)
    found = loss.match(truth(thing), 2 * 4 + 2 * 16)
    assert found.slot.tolist() == [1, 8 + 16 + 1 * 4 + 2]  # column 1, row 0 of 2 x 2; column 2, row 1 of 4 x 4
    assert found.truth.tolist() == [0, 0]
    assert found.classes.tolist() == [[0, 1], [0, 1]]
    parts = losses(loss, decoder, values(anchors=40), truth(thing))
    assert parts["classes"] == pytest.approx(2 * 2 * math.log(2))


def test_other_anchors_of_a_like_shape_are_matched_where_asked():
    loss, _ = criterion(COARSE, FINE, match_threshold=0.5)
    found = loss.match(truth((0, 0, 10, 10, 40, 28)), ANCHORS)  # IoU 0.77 with 32 x 32, 0.75 with 48 x 24
    assert found.slot.tolist() == [0, 4]
    assert found.truth.tolist() == [0, 0]


def test_of_two_objects_on_one_anchor_the_last_has_the_box_and_both_their_classes():
    loss, _ = criterion(COARSE, FINE)
    found = loss.match(truth((0, 0, 10, 10, 30, 30), (0, 1, 12, 12, 31, 31)), ANCHORS)
    assert (found.slot.tolist(), found.truth.tolist()) == ([0], [1])
    assert found.classes.tolist() == [[1, 1]]


def test_one_cell_by_hand():
    loss, decoder = criterion(COARSE, FINE)
    # center a quarter into the coarse cell's width and in the middle of its height; twice as wide as the anchor
    thing = truth((0, 1, 8, 16, 64, 32))
    found = losses(loss, decoder, values(), thing)
    cross_entropy = math.log(2) - (-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    thing_iou = loss.match(thing, ANCHORS)
    assert thing_iou.slot.tolist() == [4]  # 48 x 24: 1152 of 2048, more than 1024 of 2048
    width, height = math.log(64 / 48) ** 2 / 2, math.log(32 / 24) ** 2 / 2
    assert found["box"] == pytest.approx((2 - 0.5) * (cross_entropy + width + height), rel=1e-5)
    assert found["classes"] == pytest.approx(2 * math.log(2), rel=1e-5)


def test_gradients_are_found_minus_wanted():
    """Darknet's: of x and y behind the sigmoid, of width and height as they are."""
    loss, decoder = criterion(COARSE, FINE)
    raw = values()
    loss(decoder, raw, truth((0, 1, 8, 16, 32, 32)))["box"].backward()
    weight = 2 - 0.25
    assert raw.grad[0, 0].tolist() == pytest.approx([weight * (0.5 - 0.25), 0, 0, 0, 0, 0, 0], abs=1e-6)
    assert raw.grad[0, 1:].abs().sum() == 0


def test_objectness_spares_boxes_that_overlap_an_object():
    half = math.log(2)
    loss, decoder = criterion(COARSE, FINE, ignore_threshold=0.3)
    # the object is the first cell's square anchor: 48 x 24 upon it covers 768 of 1408, which is more than 0.3
    found = losses(loss, decoder, values(), truth((0, 0, 16, 16, 32, 32)))
    assert found["objectness"] == pytest.approx((ANCHORS - 1) * half, rel=1e-5)
    strict, _ = criterion(COARSE, FINE, ignore_threshold=0.6)
    assert losses(strict, decoder, values(), truth((0, 0, 16, 16, 32, 32)))["objectness"] == pytest.approx(
        ANCHORS * half, rel=1e-5
    )


def test_an_anchor_with_an_object_counts_whatever_it_overlaps():
    loss, decoder = criterion(COARSE, FINE, ignore_threshold=0.3)
    raw = values().detach()
    raw[0, 0, 4] = -9.0
    assert losses(loss, decoder, raw, truth((0, 0, 16, 16, 32, 32)))["objectness"] > 9


def test_without_objects_only_the_objectness_costs():
    loss, decoder = criterion(COARSE, FINE)
    raw = values(images=2)
    parts = loss(decoder, raw, truth())
    assert {name: part.item() for name, part in parts.items()} == {
        "box": 0,
        "classes": 0,
        "objectness": pytest.approx(ANCHORS * math.log(2)),
    }
    sum(parts.values()).backward()
    assert raw.grad[..., 4].abs().min() > 0
    assert raw.grad[..., :4].abs().sum() == raw.grad[..., 5:].abs().sum() == 0


def test_losses_are_the_mean_over_the_images():
    loss, decoder = criterion(COARSE, FINE)
    thing, again = (0, 1, 8, 16, 48, 32), (1, 0, 40, 20, 9, 7)
    together = losses(loss, decoder, values(images=2), truth(thing, again))
    alone = [losses(loss, decoder, values(), truth((0, *each[1:]))) for each in (thing, again)]
    for name, part in together.items():
        assert part == pytest.approx((alone[0][name] + alone[1][name]) / 2, rel=1e-5)


@pytest.mark.parametrize(("box", "apart"), [("iou", 0), ("giou", 0), ("diou", 25 / (20**2 + 35**2))])
def test_the_box_itself_may_be_judged(box, apart):
    loss, decoder = criterion(Level(((20.0, 30.0),), 2, 1.0, False, Shape(7, 1, 1)), box=box)
    # found: 20 x 30 around (32, 32); wanted: 20 x 30 around (32, 27); 20 x 25 shared, and nothing but both in 20 x 35
    found = losses(loss, decoder, values(anchors=1), truth((0, 0, 32, 27, 20, 30)))["box"]
    assert found == pytest.approx(1 - 500 / 700 + apart, rel=1e-4)


def test_ciou_also_asks_for_the_shape():
    level = Level(((20.0, 20.0),), 2, 1.0, False, Shape(7, 1, 1))
    diou, ciou = (criterion(level, box=box) for box in ("diou", "ciou"))
    wide = truth((0, 0, 32, 32, 40, 10))
    assert losses(*ciou, values(anchors=1), wide)["box"] > losses(*diou, values(anchors=1), wide)["box"] + 0.01


def test_a_regions_loss_by_hand():
    loss, decoder = criterion(REGION, object_weight=5.0, empty_weight=2.0, class_weight=3.0, rescore=True)
    raw = values(anchors=4).detach()
    raw[0, 3, 5:] = torch.tensor([math.log(3), 0.0])
    # the box found is 16 x 16 in the middle of the last cell, the object 16 x 8 there: IoU one half
    found = losses(loss, decoder, raw, truth((0, 0, 48, 48, 16, 8)))
    assert found["classes"] == pytest.approx(3 * math.log(4 / 3), rel=1e-5)
    assert found["objectness"] == pytest.approx((2 * 3 + 5) * math.log(2), rel=1e-5)


@pytest.mark.parametrize(("rescore", "aim"), [(True, 0.5), (False, 1.0)])
def test_a_regions_objectness_has_the_gradient_found_minus_wanted(rescore, aim):
    loss, decoder = criterion(REGION, object_weight=5.0, empty_weight=2.0, rescore=rescore)
    raw = values(anchors=4).detach()
    raw[0, :, 4] = torch.tensor([0.0, 1.0, -2.0, 1.5])
    raw.requires_grad_()
    loss(decoder, raw, truth((0, 0, 48, 48, 16, 8)))["objectness"].backward()
    found = raw.detach()[0, :, 4].sigmoid().tolist()
    expected = [2 * found[0], 2 * found[1], 2 * found[2], 5 * (found[3] - aim)]
    assert raw.grad[0, :, 4].tolist() == pytest.approx(expected, rel=1e-5)


def test_probabilities_themselves_have_the_gradient_found_minus_wanted():
    """new_coords: Darknet leaves the derivative of the last sigmoid to the layer that has it."""
    level = Level(((32.0, 16.0),), 2, 1.0, True, Shape(7, 2, 2))
    loss, decoder = criterion(level)
    raw = torch.full((1, 4, 7), 0.3, requires_grad=True)
    sum(loss(decoder, raw, truth((0, 1, 16, 16, 32, 16))).values()).backward()
    weight = 2 - 32 * 16 / 64**2
    box = [weight * (0.3 - 0.5)] * 4  # in the middle of the cell, as large as the anchor: a half each
    assert raw.grad[0, 0].tolist() == pytest.approx([*box, 0.3 - 1, 0.3 - 0, 0.3 - 1], rel=1e-4)
    assert raw.grad[0, 1:, 4].tolist() == pytest.approx([0.3] * 3)


def test_positions_count_in_cells_that_scale_x_y_stretches():
    level = Level(((16.0, 16.0),), 2, 1.5, False, Shape(7, 2, 2))
    loss, decoder = criterion(level)
    raw = torch.zeros(1, 4, 7, requires_grad=True)
    loss(decoder, raw, truth((0, 1, 8, 16, 16, 16)))["box"].backward()
    weight = 2 - 16**2 / 64**2
    # found 0.5 of a cell (whatever the scale), wanted 0.25 of it
    assert raw.grad[0, 0, :4].tolist() == pytest.approx([weight * (0.5 - 0.25), 0, 0, 0], rel=1e-4, abs=1e-6)


def test_each_head_has_its_own_terms():
    heads = (Terms(object_weight=4.0, empty_weight=4.0, class_weight=2.0), Terms("giou", 3.0, 0.4, 0.4))
    loss, decoder = DarknetLoss((COARSE, FINE), SIDE, SIDE, heads), Decoder((COARSE, FINE), SIDE, SIDE)
    half = math.log(2)
    found = losses(loss, decoder, values(), truth())
    assert found["objectness"] == pytest.approx((8 * 4 + 16 * 0.4) * half, rel=1e-5)
    coarse, fine = (0, 1, 8, 16, 30, 30), (0, 0, 40, 20, 9, 7)
    alone = [
        losses(*criterion(COARSE, FINE, box=box), values(), truth(thing))
        for box, thing in (("mse", coarse), ("giou", fine))
    ]
    found = losses(loss, decoder, values(), truth(coarse, fine))
    assert found["box"] == pytest.approx(alone[0]["box"] + 3 * alone[1]["box"], rel=1e-5)
    assert found["classes"] == pytest.approx(2 * 2 * half + 1 * 2 * half, rel=1e-5)


def test_the_terms_of_each_head_are_read_from_its_section():
    text = (
        "[net]\nwidth=64\nheight=64\nchannels=3\n"
        + "[convolutional]\nfilters=7\nsize=1\nactivation=linear\n[yolo]\nanchors=8,8\nclasses=2\nobj_normalizer={}\n"
        * 3
    ).format(4.0, 1.0, 0.4)
    parts = text.split("[convolutional]")
    linked = parts[0] + "".join(
        ("[route]\nlayers=0\n" if i else "[convolutional]\nfilters=4\nsize=3\npad=1\nactivation=leaky\n")
        + "[convolutional]"
        + part
        for i, part in enumerate(parts[1:])
    )
    network = build("darknet", 2, {"cfg": linked})
    assert [terms.object_weight for terms in network.loss.terms] == [4.0, 1.0, 0.4]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("objectness_smooth=1", "objectness_smooth=1 is not supported in training; remove it or set it to 0"),
        ("counters_per_class=3,4", "counters_per_class is not supported in training"),
        ("focal_loss=1", "focal_loss=1"),
        ("label_smooth_eps=0.1", "label_smooth_eps=0.1"),
        ("truth_thresh=.7", "truth_thresh=.7 is not supported in training; remove it or set it to 1"),
    ],
)
def test_losses_that_are_not_supported_are_refused_in_training_alone(line, reason):
    cfg = (
        "[net]\nwidth=32\nheight=32\nchannels=3\n[convolutional]\nfilters=7\nsize=1\nactivation=linear\n"
        f"[yolo]\nanchors=8,8\nclasses=2\ntruth_thresh=1\n{line}\n"
    )
    cfg = cfg.replace("truth_thresh=1\ntruth", "truth")
    network = build("darknet", 2, {"cfg": cfg})
    network.eval()([torch.rand(3, 20, 20)])
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    with pytest.raises(ModelError, match=f"can predict but not be trained: its .cfg says {reason}"):
        network.train()([torch.rand(3, 20, 20)], [target])


def test_boxes_are_pulled_to_their_anchors_at_first():
    loss, decoder = criterion(REGION, burn_in=3)
    raw = values(images=2, anchors=4).detach()
    raw[0, 1, 2] = 2.0
    pulls = [losses(loss, decoder, raw, truth())["prior"] for _ in range(3)]
    assert pulls == [pytest.approx(0.01 * 2 / 2)] * 2 + [
        0
    ]  # half the square, the mean of two images; 4 images are enough
    assert loss.state_dict().keys() == {"seen"}
    assert not criterion(REGION)[0].state_dict()


@pytest.mark.parametrize("new_coords", [False, True])
def test_a_perfect_prediction_costs_nothing(new_coords):
    level = Level(((32.0, 16.0),), 2, 1.2, new_coords, Shape(7, 2, 2))
    thing = truth((0, 1, 20, 40, 30, 20))
    loss, decoder = criterion(level)
    slot = loss.match(thing, 4).slot
    raw = torch.full((1, 4, 7), 0.0 if new_coords else -20.0)
    code = decoder.encode(thing.boxes, slot)[0]
    raw[0, slot, :2] = code[:2] if new_coords else code[:2].logit()
    raw[0, slot, 2:4] = code[2:]
    raw[0, slot, 4] = raw[0, slot, 6] = 1.0 if new_coords else 20.0
    assert losses(loss, decoder, raw, thing) == {
        name: pytest.approx(0, abs=1e-4) for name in ("box", "objectness", "classes")
    }


def test_boxes_become_shares_and_empty_ones_are_left_out():
    boxes = torch.tensor([[10.0, 10, 20, 40], [5, 5, 5, 9], [0, 0, 40, 80]])
    targets = [
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
        {"boxes": boxes, "labels": torch.tensor([3, 1, 2])},
    ]
    found = read_truth(targets, [(9, 9), (80, 40)])
    assert (found.image.tolist(), found.labels.tolist()) == ([1, 1], [3, 2])
    assert found.boxes.tolist() == [[0.25, 0.125, 0.5, 0.5], [0, 0, 1, 1]]


def test_overlaps_are_with_the_objects_of_the_same_image():
    boxes = torch.tensor([[[0.0, 0, 1, 1]], [[0, 0, 0.5, 1]], [[0, 0, 1, 1]]])
    objects = Truth(torch.tensor([1, 1]), torch.tensor([[0.0, 0, 1, 1], [0.9, 0.9, 1, 1]]), torch.zeros(2))
    assert best_overlaps(boxes, objects).tolist() == [[0], [0.5], [0]]


def test_a_section_says_what_is_minimized():
    yolo, region = parse("[net]\n[yolo]\n[region]\nrescore=1\nobject_scale=5\nthresh=.6")[1:]
    assert read_terms(yolo) == Terms()
    assert read_terms(region) == Terms(object_weight=5, ignore_threshold=0.6, rescore=True)
    (ciou,) = parse(
        "[net]\n[yolo]\niou_loss=ciou\niou_thresh=.2\nobj_normalizer=.4\nignore_thresh=.7\ncls_normalizer=.3\nmax_delta=5"
    )[1:]
    assert read_terms(ciou) == Terms("ciou", 0.75, 0.4, 0.4, 1.0, 0.7, 0.2, max_delta=5)  # no counters_per_class
    with pytest.raises(ModelError, match="iou_loss=uoi is not known; known: mse, iou, giou"):
        read_terms(parse("[net]\n[yolo]\niou_loss=uoi")[1])
