import pytest
import torch
from torch import nn

from shardlens.models import build
from shardlens.models.norms import MOMENTUM, SteadyBatchNorm2d, keeping_up, steady


def test_one_value_is_normalized_by_the_running_statistics():
    norm = SteadyBatchNorm2d(2, eps=0)
    norm.running_mean, norm.running_var = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 1.0])
    found = norm(torch.tensor([5.0, 5.0])[None, :, None, None])
    torch.testing.assert_close(found.flatten(), torch.tensor([2.0, 3.0]))
    assert norm.running_mean.tolist() == [1, 2]


def test_more_values_are_normalized_as_ever():
    torch.manual_seed(0)
    plain, x = nn.BatchNorm2d(3), torch.randn(2, 3, 1, 1)
    model = nn.Sequential(nn.BatchNorm2d(3))
    assert torch.equal(steady(model)(x), plain(x))
    assert torch.equal(model[0].running_var, plain.running_var)
    assert torch.equal(model.eval()(x), plain.eval()(x))


def test_names_and_values_stay():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=0.5)).eval()
    nn.init.constant_(model[1].weight, 7)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    after = steady(model).state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert (model[1].eps, model[1].training) == (0.5, False)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deeplabv3_mobilenet_v3_large", {}),
        ("lraspp_mobilenet_v3_large", {}),
        ("gcn", {"backbone": "mobilenet_v3_small"}),
    ],
)
def test_statistics_keep_up_with_a_short_training(name, options):
    with torch.device("meta"):
        model = build(name, 3, options)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert min(norm.momentum for norm in norms) == MOMENTUM


def test_statistics_that_keep_up_better_stay():
    cumulative, fast = nn.BatchNorm2d(2, momentum=None), nn.BatchNorm2d(2, momentum=0.5)
    keeping_up(nn.Sequential(cumulative, fast))
    assert (cumulative.momentum, fast.momentum) == (None, 0.5)


@pytest.mark.parametrize(
    "name", ["fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"]
)
def test_torchvisions_segmenters_train_on_one_image(name):
    model = build(name, 3).train()
    outputs = model(torch.rand(1, 3, 64, 64))
    assert set(outputs) == ({"out"} if name.startswith("lraspp") else {"out", "aux"})
    sum(logits.square().mean() for logits in outputs.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
