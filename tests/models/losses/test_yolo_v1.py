import math

import pytest
import torch

from shardlens.models.losses.yolo_v1 import Cells, choose, decode, losses, read_truth


def target(*boxes, labels=()):
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}


def one_cell(first, second, classes):
    """The output for one image of one cell: two boxes (x, y, root of width, root of height, confidence)."""
    boxes = torch.tensor([first, second]).reshape(1, 1, 1, 2, 5).requires_grad_()
    return Cells(boxes[..., :4], boxes[..., 4], torch.tensor(classes).reshape(1, 1, 1, -1))


def values(parts):
    return {name: part.item() for name, part in parts.items()}


def test_one_cell_by_hand():
    # the object: center (0.5, 0.5), half the width and a quarter of the height of a 100 x 200 image
    truth = read_truth([target([25.0, 75.0, 75.0, 125.0], labels=[1])], [(200, 100)], grid=1)
    # the first box is 0.36 x 0.25 in its middle (IoU 0.09 / 0.125), the second 0.81 x 0.81 to its left
    cells = one_cell([0.5, 0.5, 0.6, 0.5, 0.9], [0.4, 0.5, 0.9, 0.9, 0.3], [0.2, 0.7, 0.1])
    parts = values(losses(cells, truth))
    assert parts["box"] == pytest.approx(5 * (0.6 - math.sqrt(0.5)) ** 2)
    assert parts["object"] == pytest.approx((0.9 - 0.72) ** 2)
    assert parts["no_object"] == pytest.approx(0.5 * 0.3**2)
    assert parts["classes"] == pytest.approx(0.2**2 + 0.3**2 + 0.1**2)


def test_equal_errors_cost_small_boxes_more():
    """The reason for the roots: 0.05 too wide matters more to a box of 0.1 than to one of 0.8."""
    costs = []
    for wide in (0.1, 0.8):
        truth = read_truth([target([50 - 50 * wide, 25.0, 50 + 50 * wide, 75.0], labels=[0])], [(100, 100)], grid=1)
        found = [0.5, 0.5, math.sqrt(wide + 0.05), math.sqrt(0.5), 0.0]
        costs.append(values(losses(one_cell(found, [0.0] * 5, [1.0]), truth))["box"])
    assert costs[0] > 5 * costs[1]


def test_a_cell_without_an_object_costs_its_confidences_alone():
    cells = one_cell([0.5, 0.5, 0.6, 0.5, 0.4], [0.4, 0.5, 0.9, 0.9, -0.2], [0.2, 0.7, 0.1])
    parts = values(losses(cells, read_truth([target()], [(10, 10)], grid=1)))
    assert parts == {"box": 0, "object": 0, "classes": 0, "no_object": pytest.approx(0.5 * (0.16 + 0.04))}


def test_the_confidences_aim_is_not_learned_from():
    """The IoU is what confidence shall be; a box must not move to make its confidence true."""
    cells = one_cell([0.5, 0.5, 0.6, 0.5, 0.9], [0.4] * 5, [1.0])
    truth = read_truth([target([25.0, 75.0, 75.0, 125.0], labels=[0])], [(200, 100)], grid=1)
    part = losses(cells, truth)["object"]
    boxes, confidence = torch.autograd.grad(part, [cells.boxes, cells.confidence], allow_unused=True)
    assert boxes is None
    assert confidence.flatten().tolist() == pytest.approx([2 * (0.9 - 0.72), 0])


def test_the_nearest_box_is_responsible_where_none_overlaps():
    found = torch.tensor([[[0.1, 0.1, 0.1, 0.1], [0.3, 0.3, 0.4, 0.4]], [[0.5, 0.5, 1, 1], [0.5, 0.5, 0.9, 0.9]]])
    wanted = torch.tensor([[0.9, 0.9, 0.4, 0.4], [0.5, 0.5, 1, 1]])
    assert choose(torch.tensor([[0.0, 0.0], [1.0, 0.66]]), found, wanted).tolist() == [1, 0]


def test_an_object_belongs_to_the_cell_of_its_center():
    boxes = target([0.0, 0, 20, 20], [60, 20, 80, 60], [90, 90, 110, 110], labels=[2, 0, 1])
    truth = read_truth([target(), boxes], [(50, 50), (100, 100)], grid=4)
    assert [each.tolist() for each in truth.place] == [[1, 1, 1], [0, 1, 3], [0, 2, 3]]
    assert truth.labels.tolist() == [2, 0, 1]
    coded = torch.tensor([0.8, 0.6, math.sqrt(0.2), math.sqrt(0.4)])
    torch.testing.assert_close(truth.boxes[1], coded)
    _, row, column = truth.place
    torch.testing.assert_close(decode(truth.boxes, row, column, 4) * 100, boxes["boxes"])


def test_of_two_objects_in_a_cell_the_last_is_learned_and_empty_boxes_never():
    boxes = target([0.0, 0, 20, 20], [10, 10, 14, 14], [11, 11, 11, 15], labels=[2, 0, 1])
    truth = read_truth([boxes], [(100, 100)], grid=2)
    assert truth.labels.tolist() == [0]
    assert decode(truth.boxes, *truth.place[1:], 2)[0].tolist() == pytest.approx([0.1, 0.1, 0.14, 0.14])


def test_losses_are_the_mean_over_the_images():
    torch.manual_seed(0)
    cells = Cells(torch.rand(2, 3, 3, 2, 4), torch.rand(2, 3, 3, 2), torch.rand(2, 3, 3, 5))
    targets = [target([5.0, 5, 20, 30], labels=[3]), target([40.0, 40, 60, 90], [1, 70, 9, 80], labels=[0, 4])]
    together = values(losses(cells, read_truth(targets, [(100, 100)] * 2, 3)))
    alone = [
        values(losses(Cells(*(part[i : i + 1] for part in cells)), read_truth([targets[i]], [(100, 100)], 3)))
        for i in range(2)
    ]
    for name, part in together.items():
        assert part == pytest.approx((alone[0][name] + alone[1][name]) / 2, rel=1e-5)
