import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shardlens.models import build, find
from shardlens.models.errors import ModelError
from shardlens.models.losses.yolo_v1 import Cells
from tests.models.samples import sample_images, sample_target

SMALL = {"width": 0.02, "hidden": 16, "score_threshold": 0.001}


def test_the_papers_network_has_24_convolutions_and_1470_outputs():
    with torch.device("meta"):
        model = build("yolo_v1", 20)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert (len(convolutions), convolutions[0].kernel_size, convolutions[-1].out_channels) == (24, (7, 7), 1024)
    assert model.head[-1].out_features == 1470 == 7 * 7 * 30
    assert sum(p.numel() for p in model.parameters()) == 271_703_550


def test_the_output_is_7_x_7_x_30_at_448():
    model = build("yolo_v1", 20, SMALL).eval()
    cells = model.cells(torch.rand(2, 3, 448, 448))
    assert [tuple(part.shape) for part in cells] == [(2, 7, 7, 2, 4), (2, 7, 7, 2), (2, 7, 7, 20)]
    assert find("yolo_v1").input_rule(model).shape(33, 70) == (448, 448)


def test_a_new_network_begins_in_the_middle_of_its_cells():
    boxes, confidence, classes = build("yolo_v1", 20, SMALL).eval().cells(torch.rand(1, 3, 448, 448))
    assert boxes[..., :2].mean().item() == pytest.approx(0.5, abs=0.05)
    assert confidence.mean().item() == pytest.approx(0.1, abs=0.05)
    assert classes.mean().item() == pytest.approx(0.05, abs=0.05)


@pytest.mark.parametrize(("size", "stride"), [(56, 8), (112, 16), (224, 32), (448, 64)])
def test_a_backbone_of_torchvisions_serves_smaller_inputs(size, stride):
    options = {**SMALL, "backbone": "resnet18", "input_size": size}
    model = build("yolo_v1", 3, options).eval()
    assert model.cells(torch.rand(1, 3, size, size)).confidence.shape == (1, 7, 7, 2)
    assert model.backbone.strides == (min(stride, 32),)
    assert "backbone.layer1.0.conv1.weight" in model.state_dict()


def detected(cells, **options):
    """What a network of one cell, that gives `cells`, detects in an image of 200 x 100."""
    small = {**SMALL, "backbone": "resnet18", "grid": 1, "input_size": 32, "boxes": cells.boxes.shape[2]}
    model = build("yolo_v1", cells.classes.shape[-1], {**small, **options}).eval()
    return model.detect(Cells(*(part[0] for part in cells)), (200, 100))


def test_one_cell_by_hand():
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.7], [0.5, 0.5, 0.1, 0.1]]).reshape(1, 1, 1, 2, 4)
    cells = Cells(boxes, torch.tensor([0.8, 0.05]).reshape(1, 1, 1, 2), torch.tensor([0.5, 0.02]).reshape(1, 1, 1, 2))
    found = detected(cells, score_threshold=0.01)
    large, small = [37.5, 51, 62.5, 149], [49.5, 99, 50.5, 101]
    assert found["boxes"].flatten().tolist() == pytest.approx(large + small + large)
    assert found["labels"].tolist() == [0, 0, 1]
    assert found["scores"].tolist() == pytest.approx([0.4, 0.025, 0.016])


def test_scores_stay_between_0_and_1_and_boxes_in_the_image():
    boxes = torch.tensor([0.5, 0.5, 2.0, -2.0]).reshape(1, 1, 1, 1, 4)
    found = detected(Cells(boxes, torch.full((1, 1, 1, 1), 1.5), torch.tensor([1.2, -0.5]).reshape(1, 1, 1, 2)))
    assert found["scores"].tolist() == [1]
    assert found["boxes"].tolist() == [[0, 0, 100, 200]]


def test_boxes_without_width_or_height_are_no_detections():
    boxes = torch.tensor([[0.5, 0.5, 0.0, 0.7], [0.5, 0.5, 0.7, 0.0], [9.0, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]])
    found = detected(Cells(boxes.reshape(1, 1, 1, 4, 4), torch.full((1, 1, 1, 4), 0.5), torch.ones(1, 1, 1, 1)))
    assert found["boxes"].tolist() == [[37.5, 75, 62.5, 125]]


def test_training_sees_what_evaluation_sees():
    model = build("yolo_v1", 4, {**SMALL, "dropout": 0.0})
    images = sample_images((45, 33))
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert model.train()(images, [sample_target(45, 33, 2)]).keys() == {"box", "object", "no_object", "classes"}
    model.eval()(images)
    torch.testing.assert_close(seen[0], seen[1])
    torch.testing.assert_close(seen[0], F.interpolate(images[0][None], (448, 448), mode="bilinear"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": 416}, "input_size is 416; with grid=7 and backbone=paper it must be 448"),
        (
            {"input_size": 64, "backbone": "resnet18", "grid": 5},
            "grid=5 and backbone=resnet18 it must be 40, 80, 160, 320",
        ),
        ({"boxes": 0}, "option boxes is 0; it must be at least 1"),
    ],
)
def test_sizes_that_do_not_go_together(options, message):
    with pytest.raises(ModelError, match=message):
        build("yolo_v1", 3, {**SMALL, **options})


def test_training_needs_targets():
    with pytest.raises(ModelError, match="in training needs targets"):
        build("yolo_v1", 3, SMALL).train()(sample_images((8, 8)))
