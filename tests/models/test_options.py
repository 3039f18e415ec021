import re
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest

from shardlens.models import build, find
from shardlens.models.errors import ModelError
from shardlens.models.options import coerce, describe, nearest, parameters, require
from shardlens.models.spec import InputRule, ModelSpec


def builder(*, num_classes: int, cfg: str, steps: int = 3, share: float = 0.5, deep: bool = False) -> None:
    """Takes an option of every kind."""


SPEC = ModelSpec("sample", "semantic", builder, lambda model: InputRule(), "https://arxiv.org", text_options=("cfg",))


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("steps", "12", 12),
        ("steps", -4, -4),
        ("share", "0.45", 0.45),
        ("share", "1e-3", 0.001),
        ("share", 1, 1.0),
        ("deep", "true", True),
        ("deep", " Off ", False),
        ("deep", 1, True),
        ("deep", False, False),
        ("cfg", "[net]", "[net]"),
    ],
)
def test_values_take_the_declared_type(name, given, value):
    taken = coerce(SPEC, {"cfg": "", name: given})[name]
    assert taken == value
    assert type(taken) is type(value)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("steps", "1.5", "a whole number"),
        ("steps", 2.0, "a whole number"),
        ("steps", True, "a whole number"),
        ("share", "nan", "a finite number"),
        ("share", "inf", "a finite number"),
        ("share", "half", "a finite number"),
        ("share", True, "a finite number"),
        ("deep", "maybe", "true or false"),
        ("deep", 2, "true or false"),
        ("cfg", 3, "text"),
    ],
)
def test_a_value_of_another_type_is_refused(name, given, expected):
    with pytest.raises(ModelError, match=f"sample: option {name} is {re.escape(repr(given))}; expected {expected}"):
        coerce(SPEC, {"cfg": "", name: given})


def test_an_option_without_a_type_is_reported():
    def build(*, num_classes: int, size=3):
        return None

    with pytest.raises(ModelError, match="sample: its builder must annotate option size with bool, int, float or str"):
        coerce(replace(SPEC, build=build, text_options=()), {"size": "4"})


def test_an_unknown_option_lists_the_nearest_first():
    with pytest.raises(ModelError, match="sample takes no option 'shares'; it takes share, steps, cfg, deep"):
        coerce(SPEC, {"shares": 1})
    with pytest.raises(ModelError, match="lraspp_mobilenet_v3_large takes no option 'x'; it takes min_size"):
        coerce(find("lraspp_mobilenet_v3_large"), {"x": 1})


def test_a_required_option_is_asked_for():
    with pytest.raises(ModelError, match=r"sample needs the option cfg \(the text of a file; give its URI\)"):
        coerce(SPEC, {"steps": 1})


def test_options_are_described_with_their_defaults():
    assert describe(SPEC) == {
        "cfg": "str, required",
        "steps": "int = 3",
        "share": "float = 0.5",
        "deep": "bool = False",
    }
    assert parameters(partial(builder, steps=9))["steps"].default == 9


def test_nearest_ignores_case_and_distant_names():
    assert nearest("UNet", ["unet", "darknet", "ssd"]) == ["unet", "darknet"]
    assert nearest("qqq", ["unet"]) == []


def test_limits():
    require("depth", 3, 1, 8)
    with pytest.raises(ModelError, match="option depth is 9; it must be between 1 and 8"):
        require("depth", 9, 1, 8)
    with pytest.raises(ModelError, match="option depth is 0; it must be at least 1"):
        require("depth", 0, 1)


def test_what_is_no_builder_is_explained() -> None:
    def unaware(steps: int = 3) -> None: ...

    expected = r"builder .*unaware takes no argument num_classes: expected build\(num_classes=K"
    with pytest.raises(ModelError, match=expected):
        parameters(unaware)
    with pytest.raises(ModelError, match=r"builder .* cannot be looked at: 3 is not a callable"):
        parameters(cast(Any, 3))


def no_network(num_classes: int) -> int:
    return num_classes


NO_NETWORK = replace(SPEC, name="tests.models.test_options:NO_NETWORK", text_options=(), build=no_network)


def test_a_builder_returns_a_network() -> None:
    with pytest.raises(ModelError, match=r"its builder returned int, expected a torch.nn.Module"):
        build(NO_NETWORK.name, 3)
