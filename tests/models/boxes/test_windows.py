import pytest
import torch

from shardlens.models.boxes.windows import Pyramid, inside, joined, parse_scales, sample_windows
from shardlens.models.errors import ModelError


def test_the_number_of_windows_of_an_image():
    pyramid = Pyramid(window=64, stride=16, scales=(1.0, 0.5))
    assert pyramid.grid((128, 192), 1.0) == (5, 9)  # (128 - 64) / 16 + 1, (192 - 64) / 16 + 1
    assert pyramid.grid((128, 192), 0.5) == (1, 3)
    assert pyramid.count((128, 192)) == 5 * 9 + 1 * 3
    assert len(pyramid.boxes((128, 192))) == 48


@pytest.mark.parametrize(("side", "along"), [(10, 1), (64, 1), (65, 2), (80, 2), (81, 3), (128, 5)])
def test_the_last_window_hangs_over_the_edge(side, along):
    pyramid = Pyramid(64, 16, (1.0,))
    assert pyramid.grid((side, 64), 1.0) == (along, 1)
    boxes = pyramid.boxes((side, 64))
    assert boxes[-1, 3] >= side
    assert boxes[-1, 3] == pyramid.padded((side, 64), 1.0)[0]


def test_windows_lie_row_by_row_in_the_image_s_own_pixels():
    boxes = Pyramid(8, 4, (1.0, 0.5)).boxes((12, 16))
    assert boxes[:4].tolist() == [[0, 0, 8, 8], [4, 0, 12, 8], [8, 0, 16, 8], [0, 4, 8, 12]]
    assert boxes[6:].tolist() == [[0, 0, 16, 16]]


def test_scales_from_text():
    assert parse_scales("1, 0.5") == (1.0, 0.5)
    with pytest.raises(ModelError, match="option scales is '1;2'"):
        parse_scales("1;2")
    with pytest.raises(ModelError, match="each must be above 0"):
        parse_scales("1,-1")
    with pytest.raises(ModelError, match="option window is 8"):
        Pyramid(8, 16, (1.0,))


def test_half_of_the_sample_are_objects():
    pyramid = Pyramid(16, 2, (1.0,))
    windows, truth = pyramid.boxes((64, 64)), torch.tensor([[10.0, 10, 26, 26], [40, 40, 56, 56]])
    sample = sample_windows(windows, truth, torch.tensor([2, 1]), 20, (64, 64))
    assert (sample.labels > 0).sum() == 10
    assert len(sample.labels) == 20
    objects = sample.labels > 0
    assert sample.labels[objects].equal(torch.tensor([2, 1])[sample.truth[objects]])


def test_an_object_that_no_window_fits_has_its_best_one():
    windows = Pyramid(16, 16, (1.0,)).boxes((64, 64))
    sample = sample_windows(windows, torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([3]), 8, (64, 64))
    assert sample.index[sample.labels == 3].tolist() == [0]


def test_an_object_that_no_window_touches_is_not_taught():
    windows = Pyramid(16, 16, (1.0,)).boxes((32, 32))
    boxes = torch.tensor([[20.0, 20, 30, 30], [50.0, 50, 60, 60], [8, 8, 8, 8]])
    sample = sample_windows(windows, boxes, torch.tensor([1, 3, 2]), 8, (32, 32))
    assert sample.labels.tolist() == [0, 0, 0, 1]
    assert sample.truth[sample.labels > 0].tolist() == [0]


def test_without_objects_all_are_background_and_windows_in_the_padding_do_not_count():
    windows = Pyramid(16, 8, (1.0,)).boxes((64, 64))
    sample = sample_windows(windows, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 8, (64, 30))
    assert sample.labels.tolist() == [0] * 8
    assert inside(windows[sample.index], (64, 30)).all()
    assert not inside(windows, (64, 30)).all()


def test_samples_of_several_images():
    windows = Pyramid(16, 16, (1.0,)).boxes((32, 32))
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    one = sample_windows(windows, torch.tensor([[16.0, 16, 32, 32]]), torch.tensor([2]), 2, (32, 32))
    index, labels = joined([sample_windows(windows, *none, 2, (32, 32)), one], 4)
    assert index[labels == 2].tolist() == [7]
