import math

import pytest
import torch
from torchvision.ops import box_iou

from shardlens.models import build
from shardlens.models.detection.cornernet.decoding import CornerMaps, Corners, best_corners, pair
from shardlens.models.detection.cornernet.losses import heat_loss, offset_loss, pull_loss, push_loss
from shardlens.models.detection.cornernet.network import channels_at, corner_pool, image_losses
from shardlens.models.detection.cornernet.targets import corner_targets, gaussian_radius
from shardlens.models.errors import ModelError, WeightsError
from shardlens.pipeline.networks.weights import Checkpoint, load, save
from tests.models.samples import sample_images, sample_options

SMALL = sample_options("cornernet")


def test_the_original_has_the_papers_size():
    with torch.device("meta"):
        model = build("cornernet", 81)
    assert sum(p.numel() for p in model.parameters()) == 201_035_212  # as the authors' own training prints
    assert channels_at(256, 5) == (256, 256, 384, 384, 384, 512)


VERTICAL = torch.tensor([[[[2.0, 1, 3, 0], [4, 0, 1, 2], [1, 5, 0, 1], [3, 2, 2, 0]]]])
HORIZONTAL = torch.tensor([[[[0.0, 3, 1, 2], [2, 1, 4, 0], [1, 0, 0, 3], [5, 1, 2, 2]]]])


def test_corner_pooling_of_top_left_corners_on_a_worked_example():
    below = torch.tensor([[4.0, 5, 3, 2], [4, 5, 2, 2], [3, 5, 2, 1], [3, 2, 2, 0]])
    right = torch.tensor([[3.0, 3, 2, 2], [4, 4, 4, 0], [3, 3, 3, 3], [5, 2, 2, 2]])
    torch.testing.assert_close(corner_pool(VERTICAL, HORIZONTAL, from_end=True)[0, 0], below + right)


def test_corner_pooling_of_bottom_right_corners_on_a_worked_example():
    above = torch.tensor([[2.0, 1, 3, 0], [4, 1, 3, 2], [4, 5, 3, 2], [4, 5, 3, 2]])
    left = torch.tensor([[0.0, 3, 3, 3], [2, 2, 4, 4], [1, 1, 1, 3], [5, 5, 5, 5]])
    torch.testing.assert_close(corner_pool(VERTICAL, HORIZONTAL, from_end=False)[0, 0], above + left)


@pytest.mark.parametrize("least", [0.3, 0.7])
@pytest.mark.parametrize(("height", "width"), [(10.0, 10.0), (40.0, 12.0), (7.0, 90.0)])
def test_corners_within_the_radius_keep_the_iou(least, height, width):
    radius = gaussian_radius(height, width, least)
    shifts = [(a, b) for a in (-1, 1) for b in (-1, 1)]
    moves = torch.tensor([[*first, *second] for first in shifts for second in shifts], dtype=torch.float64)
    box = torch.tensor([[0.0, 0.0, width, height]], dtype=torch.float64)
    worst = float(box_iou(box, box + radius * moves).min())
    assert worst == pytest.approx(least, abs=1e-6)


def targets(boxes, labels, radii):
    corners = torch.tensor(boxes)
    return corner_targets(corners, torch.tensor(radii), torch.tensor(labels), (2, 6, 8), 4)


def test_targets_by_hand():
    found = targets([[9.0, 14.0]], [1], [2.6])
    assert (found.rows.tolist(), found.columns.tolist()) == ([3], [2])
    torch.testing.assert_close(found.offsets, torch.tensor([[0.25, 0.5]]))
    assert not found.heat[0].any()
    two_cells, sigma = found.heat[1, 3, 4].item(), 5 / 6  # of the whole cells of the radius, 2
    assert found.heat[1, 3, 2] == 1
    assert two_cells == pytest.approx(math.exp(-4 / (2 * sigma**2)))
    assert (found.heat[1] > 0).sum() == 5 * 5  # rows 1 to 5, columns 0 to 4


def test_the_higher_of_two_bells_counts_and_corners_at_the_border_stay_inside():
    found = targets([[8.0, 8.0], [12.0, 8.0], [32.0, 24.0]], [0, 0, 0], [1.0, 1.0, 0.0])
    assert found.heat[0, 2, 2] == found.heat[0, 2, 3] == 1
    assert (found.rows[2], found.columns[2], found.offsets[2].tolist()) == (5, 7, [1.0, 1.0])


def test_heat_loss_by_hand():
    logits, heat = torch.zeros(1, 1, 3), torch.tensor([[[1.0, 0.5, 0.0]]])
    # scores of 1/2: ln 2 / 4 for the corner, a 16th of that beside it, all of it elsewhere
    assert heat_loss(logits, heat).item() == pytest.approx(math.log(2) / 4 * (1 + 1 / 16 + 1))


def test_heat_loss_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    logits, heat = torch.randn(2, 5, 4, generator=generator), torch.rand(2, 5, 4, generator=generator)
    heat[0, 1, 2] = heat[1, 4, 0] = 1
    total = 0.0
    for logit, wanted in zip(logits.flatten().tolist(), heat.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        total -= (1 - p) ** 2 * math.log(p) if wanted == 1 else (1 - wanted) ** 4 * p**2 * math.log(1 - p)
    assert heat_loss(logits, heat).item() == pytest.approx(total / 2, rel=1e-5)


def test_embedding_losses_by_hand():
    top_left, bottom_right = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([1.0, 1.0, 3.0])
    assert pull_loss(top_left, bottom_right).item() == pytest.approx((0.25 + 0.25) / 3)
    # means 0.5, 1 and 3: only the first two are nearer than 1, by a half, counted both ways, of 6 pairs
    assert push_loss(top_left, bottom_right).item() == pytest.approx(2 * 0.5 / 6)
    assert push_loss(top_left[:1], bottom_right[:1]) == pull_loss(top_left[:0], bottom_right[:0]) == 0


def test_embedding_losses_against_a_loop():
    a, b = torch.randn(2, 7, generator=torch.Generator().manual_seed(1))
    middle = [(x + y) / 2 for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    pull = sum((x - m) ** 2 + (y - m) ** 2 for x, y, m in zip(a.tolist(), b.tolist(), middle, strict=True)) / 7
    push = sum(max(0, 1 - abs(middle[i] - middle[j])) for i in range(7) for j in range(7) if i != j) / 42
    assert pull_loss(a, b).item() == pytest.approx(pull, rel=1e-5)
    assert push_loss(a, b).item() == pytest.approx(push, rel=1e-5)


def test_offset_loss_by_hand():
    wanted = torch.tensor([[0.5, 0.5], [0.0, 0.0]])
    assert offset_loss(wanted + torch.tensor([[0.2, 0.0], [0.0, -3.0]]), wanted).item() == pytest.approx(
        (0.5 * 0.2**2 + (3 - 0.5)) / 2
    )
    assert offset_loss(wanted[:0], wanted[:0]) == 0


def test_an_image_s_losses_are_the_sums_over_both_kinds_of_corners():
    first, second = (targets([corner], [1], [0.0]) for corner in ([9.0, 14.0], [22.0, 19.0]))
    still = CornerMaps(torch.zeros(1, 2, 6, 8), torch.zeros(1, 1, 6, 8), torch.zeros(1, 2, 6, 8))
    found = image_losses((still, still), 0, (first, second))
    # scores of 1/2 in 96 cells, and offsets of (0.25, 0.5) and (0.5, 0.75) that are said to be 0
    assert found["heat"].item() == pytest.approx(2 * 96 * math.log(2) / 4)
    assert found["offsets"].item() == pytest.approx((0.25**2 + 0.5**2 + 0.5**2 + 0.75**2) / 2)
    assert found["pull"] == found["push"] == 0


def test_only_peaks_are_corners():
    heat = torch.full((1, 1, 4, 4), -9.0)
    heat[0, 0, 1, 1], heat[0, 0, 1, 2], heat[0, 0, 3, 3] = 3.0, 2.0, 1.0
    embedding = torch.arange(16.0).reshape(1, 1, 4, 4)
    offsets = torch.tensor([0.25, 0.5]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)
    found = best_corners(CornerMaps(heat, embedding, offsets), 0)
    assert found.places[:2].tolist() == [[1.25, 1.5], [3.25, 3.5]]
    assert found.embeddings[:2].tolist() == [5.0, 15.0]
    torch.testing.assert_close(found.scores[:2], torch.tensor([3.0, 1.0]).sigmoid())


@pytest.mark.parametrize(
    ("changed", "boxes"),
    [
        ({}, 1),
        ({"classes": torch.tensor([1])}, 0),
        ({"embeddings": torch.tensor([0.8])}, 0),
        ({"embeddings": torch.tensor([0.4])}, 1),
        ({"places": torch.tensor([[0.5, 9.0]])}, 0),
    ],
)
def test_corners_pair_by_class_embedding_and_order(changed, boxes):
    first = Corners(torch.tensor([0.9]), torch.tensor([0]), torch.tensor([0.0]), torch.tensor([[1.0, 2.0]]))
    second = {"classes": torch.tensor([0]), "embeddings": torch.tensor([0.1]), "places": torch.tensor([[5.0, 9.0]])}
    found, scores, _ = pair(first, Corners(torch.tensor([0.5]), **{**second, **changed}))
    assert len(found) == boxes
    if boxes:
        assert found.tolist() == [[1.0, 2.0, 5.0, 9.0]]
        assert scores.item() == pytest.approx(0.7)


def test_perfect_maps_give_the_objects_back():
    model = build("cornernet", 3, SMALL)
    boxes = torch.tensor([[4.0, 6.0, 30.0, 41.0], [20.0, 9.0, 61.0, 50.0]])
    maps = []
    for corners in (boxes[:, :2], boxes[:, 2:]):
        wanted = corner_targets(corners, torch.zeros(2), torch.tensor([0, 1]), (2, 16, 16), 4)
        embedding, offsets = torch.full((1, 1, 16, 16), 9.0), torch.zeros(1, 2, 16, 16)
        embedding[0, 0, wanted.rows, wanted.columns] = torch.tensor([0.0, 2.0])
        offsets[0, :, wanted.rows, wanted.columns] = wanted.offsets.T
        maps.append(CornerMaps(40 * wanted.heat[None] - 20, embedding, offsets))
    found = model.select(*maps, 0, (64, 64))
    assert sorted(found["labels"].tolist()) == [1, 2]
    torch.testing.assert_close(found["boxes"][found["labels"].argsort()], boxes)


def test_pairs_outside_of_the_image_are_no_detections():
    model = build("cornernet", 3, SMALL)
    maps = []
    for place in ((40.0, 8.0), (60.0, 50.0)):
        wanted = corner_targets(torch.tensor([place]), torch.zeros(1), torch.tensor([0]), (2, 16, 16), 4)
        maps.append(CornerMaps(40 * wanted.heat[None] - 20, torch.zeros(1, 1, 16, 16), torch.zeros(1, 2, 16, 16)))
    assert model.select(*maps, 0, (64, 64))["boxes"].tolist() == [[40, 8, 60, 48]]
    assert model.select(*maps, 0, (64, 39))["boxes"].tolist() == []


def test_all_stacks_are_taught():
    target = {"boxes": torch.tensor([[4.0, 5, 40, 44]]), "labels": torch.tensor([1])}
    model = build("cornernet", 3, SMALL).train()
    losses = model(sample_images((64, 64)), [target])
    assert set(losses) == {"heat", "pull", "push", "offsets"}
    losses["heat"].backward()
    assert all(branch.heat[-1].weight.grad.abs().sum() > 0 for branch in model.top_left)


def test_another_width_is_reported_by_the_first_key():
    wide = build("cornernet", 3, {**SMALL, "width": 24})
    with pytest.raises(WeightsError, match=r"backbone.stem.0.0.weight \(12, 3, 7, 7\) in the file, \(8, 3, 7, 7\)"):
        load(build("cornernet", 3, SMALL), save(wide, Checkpoint("cornernet", {}, ("a",))), "x")


def test_targets_are_asked_for():
    with pytest.raises(ModelError, match="CornerNet in training needs targets"):
        build("cornernet", 2, SMALL).train()(sample_images((64, 64)))


@pytest.mark.parametrize(("option", "value"), [("stacks", 0), ("width", 15), ("image_size", 8), ("corner_iou", 1.0)])
def test_limits(option, value):
    with pytest.raises(ModelError, match=f"option {option} is {value}"):
        build("cornernet", 2, {option: value})
