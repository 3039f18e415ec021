import pytest
import torch

from shardlens.models import build, find
from shardlens.models.errors import ModelError
from shardlens.models.segmentation.unet import valid_input, valid_margin


def test_depth_and_width_make_the_papers_ladder():
    model = build("unet", 2, {"depth": 4, "width": 64})
    widths = [block[0].out_channels for block in model.encoder]
    assert widths == [64, 128, 256, 512, 1024]
    assert [block[0].in_channels for block in model.decoder] == [1024, 512, 256, 128]
    assert [up.out_channels for up in model.up] == [512, 256, 128, 64]


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (16, 16), (33, 20)])
def test_logits_have_the_images_size(size):
    model = build("unet", 3, {"depth": 3, "width": 4}).eval()
    assert model(torch.rand(2, 3, *size))["out"].shape == (2, 3, *size)


def test_padding_inside_is_padding_outside():
    model = build("unet", 3, {"depth": 2, "width": 4}).eval()
    image = torch.rand(1, 3, 10, 9)
    padded = torch.nn.functional.pad(image, (0, 3, 0, 2))
    assert find("unet").input_rule(model).shape(10, 9) == (12, 12)
    assert torch.equal(model(image)["out"], model(padded)["out"][:, :, :10, :9])


def test_an_outer_scale_reaches_the_logits_directly_and_through_the_bottom():
    model = build("unet", 2, {"depth": 2, "width": 4}).eval()
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    model(image)["out"][0, 0, 0, 0].backward()
    seen = image.grad.abs().sum(dim=(0, 1)).nonzero().max(dim=0).values
    assert seen.min() >= 13  # 1 + 1 at full size, then 2 and 2 * 2 pixels per convolution down and up


def test_it_learns_which_half_is_bright():
    torch.manual_seed(0)
    model = build("unet", 2, {"depth": 2, "width": 4})
    images = torch.randn(8, 3, 16, 16)
    truth = (images.mean(dim=1) > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(model(images)["out"], truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.4


@pytest.mark.parametrize("stride", [2, 4])
def test_a_stem_makes_the_scales_smaller_and_the_logits_the_images_size(stride):
    model = build("unet", 3, {"depth": 2, "width": 4, "stem_stride": stride}).eval()
    assert model.stem(torch.rand(1, 3, 16, 32)).shape == (1, 4, 16 // stride, 32 // stride)
    assert model(torch.rand(1, 3, 13, 30))["out"].shape == (1, 3, 13, 30)
    assert find("unet").input_rule(model).multiple == 4 * stride


def test_each_pixel_of_the_stem_lies_in_the_middle_of_those_it_stands_for():
    model = build("unet", 2, {"width": 4, "stem_stride": 2}).eval()
    image = torch.zeros(1, 3, 16, 16, requires_grad=True)
    model.stem[0](image)[0, 0, 3, 5].backward()
    seen = image.grad.abs().sum(dim=(0, 1)).nonzero()
    assert seen.double().mean(dim=0).tolist() == [2 * 3 + 0.5, 2 * 5 + 0.5]


def test_strides_of_the_stem_are_few():
    with pytest.raises(ModelError, match="option stem_stride is 3; it must be 1, 2 or 4"):
        build("unet", 2, {"stem_stride": 3})


@pytest.mark.parametrize(("option", "value", "limits"), [("depth", 0, "1 and 8"), ("width", 5000, "1 and 1024")])
def test_limits(option, value, limits):
    with pytest.raises(ModelError, match=f"option {option} is {value}; it must be between {limits}"):
        build("unet", 2, {option: value})


def test_valid_convolutions_turn_572_pixels_into_388():
    model = build("unet", 2, {"width": 2, "padding": "valid"}).eval()
    with torch.inference_mode():
        assert model.network(torch.rand(1, 3, 572, 572)).shape == (1, 2, 388, 388)
    assert valid_input(388, depth=4) == 572
    assert valid_input(389, depth=4) == 572 + 16
    assert valid_margin(4) == (572 - 388) / 2


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (33, 20)])
def test_the_mirrored_border_gives_logits_for_the_whole_image(size):
    model = build("unet", 3, {"depth": 2, "width": 2, "padding": "valid"}).eval()
    assert model(torch.rand(1, 3, *size))["out"].shape == (1, 3, *size)
    assert find("unet").input_rule(model).multiple == 1


def test_a_logit_of_the_image_is_that_of_the_same_place_in_a_larger_one():
    torch.manual_seed(0)
    model = build("unet", 2, {"depth": 2, "width": 4, "padding": "valid"}).eval()
    larger = torch.rand(1, 3, valid_input(40, 2), valid_input(52, 2))
    expected = model.network(larger)
    margin = valid_margin(2)
    image = larger[..., margin : margin + expected.shape[2], margin : margin + expected.shape[3]]
    inside = (..., slice(margin, -margin), slice(margin, 52 - margin))
    torch.testing.assert_close(model(image)["out"][inside], expected[inside])


def test_residual_blocks_add_what_came_in():
    model = build("unet", 2, {"depth": 1, "width": 4, "residual": True}).eval()
    block = model.encoder[1]
    torch.nn.init.zeros_(block.body[4].weight)
    x = torch.rand(1, 4, 8, 8)
    torch.testing.assert_close(block(x), torch.relu(block.shortcut(x)))
    shrinking = build("unet", 2, {"depth": 1, "width": 4, "residual": True, "padding": "valid"}).eval()
    assert shrinking.network(torch.rand(1, 3, 32, 32)).shape == (1, 2, 16, 16)


def test_parameters_keep_their_names():
    keys = build("unet", 2, {"depth": 1, "width": 4, "stem_stride": 2}).state_dict()
    weights = [key for key in keys if key.endswith("weight")]
    numbers = ("0", "1", "3", "4")
    blocks = [f"{part}.weight" for block in ("encoder.0", "encoder.1") for part in (f"{block}.{i}" for i in numbers)]
    assert weights == [
        *("stem.0.weight", "stem.1.weight"),
        *blocks,
        "up.0.weight",
        *(f"decoder.0.{i}.weight" for i in numbers),
        "classifier.weight",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"padding": "full"}, "padding is 'full'; it must be same or valid"),
        ({"padding": "valid", "stem_stride": 2}, "stem_stride is 2; with padding=valid it must be 1"),
    ],
)
def test_padding_is_same_or_valid(options, said):
    with pytest.raises(ModelError, match=said):
        build("unet", 2, options)
