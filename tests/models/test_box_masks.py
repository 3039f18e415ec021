"""Small masks instead of pasted ones: the same run lengths in the end."""

from __future__ import annotations

import numpy as np
import torch

from shardlens import models
from shardlens.models.box_masks import keep_box_masks
from shardlens.pipeline import masks
from shardlens.pipeline.images.decode import Decoded
from shardlens.pipeline.inference.rows import from_detection


def mask_rcnn() -> torch.nn.Module:
    torch.manual_seed(1)
    options = {"min_size": 64, "max_size": 96, "detections_per_image": 6}
    return models.build("maskrcnn_resnet50_fpn", 4, options, 0.0).eval()


@torch.inference_mode()
def test_rows_from_box_masks_are_those_of_pasted_masks() -> None:
    image = torch.rand(3, 60, 90)
    decoded = Decoded(np.zeros((60, 90, 3), np.uint8), 1, 60, 90)
    model = mask_rcnn()
    pasted = model([image])[0]
    keep_box_masks(model)
    small = model([image])[0]
    assert small["box_masks"].shape[1:] == (1, 28, 28)
    assert "masks" not in small
    expected, found = from_detection(pasted, decoded, None), from_detection(small, decoded, None)
    assert len(found.rles) == 6
    assert found.rles == expected.rles
    assert np.array_equal(found.boxes_xywh, expected.boxes_xywh)
    assert sum(masks.area(rle) for rle in found.rles) > 0


def test_other_networks_stay_as_they_are() -> None:
    model = models.build("unet", 3)
    before = model.state_dict().keys()
    keep_box_masks(model)
    assert model.state_dict().keys() == before


def test_boxes_and_masks_of_a_reduced_image_lie_in_the_whole_one() -> None:
    output = {
        "boxes": torch.tensor([[5.0, 10, 20, 30]]),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.5]),
        "box_masks": torch.ones(1, 1, 28, 28),
    }
    whole = {**output, "boxes": torch.tensor([[10.0, 20, 40, 60]])}
    reduced = from_detection(output, Decoded(np.zeros((40, 30, 3), np.uint8), 6, 60, 80), None)
    expected = from_detection(whole, Decoded(np.zeros((80, 60, 3), np.uint8), 6, 60, 80), None)
    assert reduced.boxes_xywh.tolist() == expected.boxes_xywh.tolist()
    assert reduced.rles == expected.rles
