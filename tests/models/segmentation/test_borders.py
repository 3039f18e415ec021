import pytest
import torch

from shardlens.models.segmentation.borders import crop_center, mirror, pad_to_multiple


def test_a_row_is_mirrored_about_its_ends():
    row = torch.tensor([1.0, 2, 3])[None, None, None, :]
    assert mirror(row, 1, 5, 9)[0, 0, 2].tolist() == [2, 1, 2, 3, 2, 1, 2, 3, 2]


@pytest.mark.parametrize(("before", "height", "width"), [(2, 9, 10), (0, 5, 6), (3, 8, 9)])
def test_where_torch_can_mirror_it_mirrors_alike(before, height, width):
    image = torch.rand(2, 3, 5, 6)
    right, below = width - 6 - before, height - 5 - before
    expected = torch.nn.functional.pad(image, (before, right, before, below), mode="reflect")
    assert torch.equal(mirror(image, before, height, width), expected)


def test_one_pixel_is_its_own_mirror():
    assert mirror(torch.full((1, 1, 1, 1), 5.0), 4, 9, 9).eq(5).all()


def test_the_middle_is_cropped():
    assert crop_center(torch.arange(25.0).reshape(1, 1, 5, 5), 1, 3).flatten().tolist() == [11, 12, 13]


def test_zeros_come_right_and_below():
    padded = pad_to_multiple(torch.ones(1, 1, 3, 4), 4)
    assert padded.shape == (1, 1, 4, 4)
    assert padded[0, 0].sum(dim=1).tolist() == [4, 4, 4, 0]
