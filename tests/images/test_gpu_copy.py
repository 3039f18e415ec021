"""What comes back from a device, as far as a machine without one can show it."""

from __future__ import annotations

import torch

from shardlens.pipeline.images.gpu_copy import at_once, brought_back, joined_and_split


def test_shapes_and_values_come_back() -> None:
    given = [torch.rand(3, 4), torch.rand(0, 4), torch.rand(5), torch.rand(2, 1, 7).transpose(0, 2)]
    for back in (at_once(given), joined_and_split(given)):
        assert [each.shape for each in back] == [each.shape for each in given]
        assert all(torch.equal(found, each) for found, each in zip(back, given, strict=True))
    assert at_once([]) == []


def test_every_kind_comes_back_but_the_masks() -> None:
    outputs = [
        {"boxes": torch.rand(n, 4), "panoptic": torch.ones(6, n), "masks": torch.rand(n, 1, 6, 6)} for n in (2, 0)
    ]
    back = brought_back(outputs)
    assert [set(output) for output in back] == [{"boxes", "panoptic", "masks"}] * 2
    assert all(output["masks"] is given["masks"] for output, given in zip(back, outputs, strict=True))
    assert brought_back([]) == []
