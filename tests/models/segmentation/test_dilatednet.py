import pytest
import torch
from torch import nn

from shardlens.models import build
from shardlens.models.errors import ModelError
from shardlens.models.segmentation.dilatednet import context_module
from tests.models.segmentation.receptive_field import seen_from_the_middle, square

SMALL = {"width": 4, "head_width": 16}


@pytest.mark.parametrize("kind", ["basic", "large"])
def test_the_context_module_sees_67_by_67(kind):
    torch.manual_seed(0)
    module = context_module(2, kind).double()
    for layer in module:
        if isinstance(layer, nn.Conv2d):
            nn.init.uniform_(layer.weight, 0.5, 1)  # no rectifier closes
    assert torch.equal(seen_from_the_middle(module, 2, 81), square(81, 67))


@pytest.mark.parametrize("kind", ["basic", "large"])
def test_it_begins_as_the_identity(kind):
    torch.manual_seed(0)
    scores = torch.rand(1, 3, 9, 9) + 0.5
    torch.testing.assert_close(context_module(3, kind)(scores), scores, rtol=0.25, atol=0.1)


def test_channels_of_the_large_module_are_the_papers():
    widths = [layer.out_channels for layer in context_module(21, "large") if isinstance(layer, nn.Conv2d)]
    assert widths == [21 * growth for growth in (2, 2, 4, 8, 16, 32, 32, 1)]


def test_the_front_end_ends_at_stride_eight_and_keeps_the_names():
    model = build("dilatednet", 3, SMALL)
    assert [tuple(m.shape[2:]) for m in model.backbone(torch.rand(1, 3, 64, 64))][2:] == [(8, 8)] * 3
    last = [m for m in model.backbone.stages()[4] if isinstance(m, nn.Conv2d)]
    assert [m.dilation for m in last] == [(2, 2)] * 3
    assert "backbone.features.28.weight" in model.state_dict()
    assert model.head[0].dilation == (4, 4)


@pytest.mark.parametrize("context", ["basic", "large", "none"])
def test_any_size_in_the_same_size_out(context):
    model = build("dilatednet", 3, {**SMALL, "context": context}).eval()
    assert model(torch.rand(2, 3, 33, 70))["out"].shape == (2, 3, 33, 70)


def test_the_front_end_is_trained_by_its_own_scores_too():
    images = torch.rand(1, 3, 33, 70)
    model = build("dilatednet", 3, SMALL)
    assert {key: logits.shape for key, logits in model(images).items()} == dict.fromkeys(("out", "aux"), (1, 3, 33, 70))
    assert set(model.eval()(images)) == {"out"}
    assert set(build("dilatednet", 3, {**SMALL, "context": "none"})(images)) == {"out"}


def test_contexts_are_few():
    with pytest.raises(ModelError, match="context is 'small'; it must be basic, large or none"):
        build("dilatednet", 2, {**SMALL, "context": "small"})
