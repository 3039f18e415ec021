import torch
from torchvision.ops import box_iou

from shardlens.models.boxes.sampling import SamplingRule, sample_regions


def scene(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """2000 proposals around three objects."""
    torch.manual_seed(seed)
    truth = torch.tensor([[10.0, 10, 60, 70], [100, 20, 180, 90], [40, 120, 140, 180]])
    near = truth.repeat(500, 1) + torch.randn(1500, 4) * 12
    corner = torch.rand(500, 2) * 150
    far = torch.cat([corner, corner + 5 + torch.rand(500, 2) * 45], dim=1)
    proposals = torch.cat([near, far])
    proposals[:, 2:] = torch.maximum(proposals[:, 2:], proposals[:, :2] + 1)
    return proposals, truth, torch.tensor([1, 2, 2])


def test_fast_rcnn_takes_128_regions_of_two_images():
    samples = [sample_regions(*scene(seed), SamplingRule()) for seed in (0, 1)]
    assert sum(len(sample.regions) for sample in samples) == 128
    for sample in samples:
        overlaps = box_iou(sample.regions, scene(0)[1]).max(1).values
        objects = sample.labels > 0
        assert objects.sum() == 16  # a quarter
        assert (overlaps[objects] >= 0.5).all()
        assert ((overlaps[~objects] >= 0.1) & (overlaps[~objects] < 0.5)).all()


def test_each_object_s_region_has_the_box_and_the_class_that_it_covers_best():
    proposals, truth, labels = scene(0)
    sample = sample_regions(proposals, truth, labels, SamplingRule())
    objects = sample.labels > 0
    best = box_iou(sample.regions[objects], truth).argmax(1)
    assert sample.truth[objects].equal(truth[best])
    assert sample.labels[objects].equal(labels[best])


def test_the_true_boxes_are_candidates():
    truth = torch.tensor([[10.0, 10, 60, 70]])
    sample = sample_regions(torch.tensor([[100.0, 100, 110, 110]]), truth, torch.tensor([3]), SamplingRule())
    assert sample.regions.equal(truth)
    assert sample.labels.tolist() == [3]


def test_an_image_without_objects_is_background():
    proposals = scene(0)[0]
    sample = sample_regions(proposals, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), SamplingRule())
    assert sample.labels.tolist() == [0] * 64
