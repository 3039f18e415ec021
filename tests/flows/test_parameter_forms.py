"""Configurations as forms: what Prefect stores of a flow's parameters, from which its page draws them."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Annotated, Any, get_args

import pytest
from cyclopts import Parameter
from prefect import Flow, flow
from prefect.utilities.callables import parameter_schema

from shardlens.flows import stages
from shardlens.flows.inference import dataset_inference
from shardlens.flows.parameter_forms import Form, field_lines, given, title
from shardlens.flows.recipe_choice import Recipe, with_recipe
from shardlens.flows.retention import retention
from shardlens.flows.train import dataset_training
from shardlens.pipeline.executors.base import ExecutorConfig
from shardlens.pipeline.networks.resolve import NetworkConfig
from shardlens.pipeline.predict import PredictConfig
from shardlens.pipeline.train import TrainConfig
from shardlens.pipeline.training import recipes

FLOWS = [stages.ingest, stages.predict, stages.evaluate, stages.train, dataset_inference, retention]


@dataclasses.dataclass(frozen=True)
class Inner:
    """What is within."""

    depth: int = 3
    """How deep,
    in meters."""


@dataclasses.dataclass(frozen=True)
class Outer:
    """What is around."""

    name: str
    """What it is called."""
    size: tuple[int, int] | None = None
    inner_part: Annotated[Inner, Parameter(name="*")] = Inner()
    """What it holds."""
    derived: Annotated[int, Parameter(parse=False)] = 1
    """Never asked for."""


@flow
def drawn(outer: Annotated[Outer, Form(Outer)], other: Annotated[Outer | None, Form(Outer)] = None) -> Outer:
    return outer


def definitions(of: Flow[..., Any]) -> dict[str, Any]:
    found = parameter_schema(of).definitions
    assert found is not None
    return found


def test_the_line_under_a_field_becomes_the_line_under_its_input() -> None:
    assert field_lines(Outer) == {
        "name": "What it is called.",
        "inner_part": "What it holds.",
        "derived": "Never asked for.",
    }
    inner, outer = definitions(drawn)["Inner"], definitions(drawn)["Outer"]
    assert inner["properties"]["depth"]["description"] == "How deep,\nin meters."
    assert outer["properties"]["name"]["description"] == "What it is called."


def test_a_dataclass_within_is_titled_by_its_field() -> None:
    field = definitions(drawn)["Outer"]["properties"]["inner_part"]
    assert (field["title"], field["description"]) == ("Inner part", "What it holds.")
    assert field["$ref"] == "#/definitions/Inner"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("tta", "TTA"),
        ("sha256", "SHA-256"),
        ("compiled", "Compile"),
        ("batch_size", "Batch size"),
        ("gpus_per_worker", "GPUs per worker"),
    ],
)
def test_labels_are_readable(name: str, label: str) -> None:
    assert title(name) == label


def test_recipes_are_a_choice() -> None:
    assert set(get_args(Recipe)) == set(recipes.RECIPES)
    for of in (stages.train, dataset_training):
        (choices,) = [each for each in parameter_schema(of).properties["recipe"]["anyOf"] if "enum" in each]
        assert choices["enum"] == list(get_args(Recipe))


def test_a_recipe_fills_in_what_the_form_leaves_out() -> None:
    recipe = recipes.find("bccd")
    filled = with_recipe(TrainConfig("cells", model=recipe.model, epochs=3), "bccd")
    assert filled == replace(recipe, dataset="cells", epochs=3)
    other = with_recipe(TrainConfig("cells", model="unet", transfer="scratch"), "bccd")
    assert (other.model, other.option, other.init) == ("unet", (), None)
    assert other.learning_rate == recipe.learning_rate
    assert with_recipe(TrainConfig("cells", model="unet"), None) == TrainConfig("cells", model="unet")


def test_the_usual_fields_come_first() -> None:
    for of, config, first in (
        (stages.predict, "PredictConfig", stages.PREDICT_FIRST),
        (stages.train, "TrainConfig", stages.TRAIN_FIRST),
        (dataset_training, "TrainConfig", stages.TRAIN_FIRST),
    ):
        fields = definitions(of)[config]["properties"]
        assert tuple(fields)[: len(first)] == first
        assert [field["position"] for field in fields.values()] == list(range(len(fields)))


def test_what_is_derived_is_not_asked_for() -> None:
    assert list(definitions(drawn)["Outer"]["properties"]) == ["name", "size", "inner_part"]
    assert not {"threads", "device"} & set(definitions(stages.predict)["PredictConfig"]["properties"])


def test_what_the_form_sends_becomes_the_dataclass() -> None:
    sent = {"outer": {"name": "a", "size": [1, 2], "inner_part": {"depth": 5}}}
    assert drawn.validate_parameters(sent) == {"outer": Outer("a", (1, 2), Inner(5)), "other": None}


@pytest.mark.parametrize("of", FLOWS, ids=lambda of: of.name)
def test_every_input_of_every_flow_is_described(of: Flow[..., Any]) -> None:
    schema, within = parameter_schema(of), definitions(of)
    forms = {"": schema.properties, **{config: within[config].get("properties", {}) for config in within}}
    bare = [
        f"{config}.{name}"
        for config, fields in forms.items()
        for name, field in fields.items()
        if not {**within.get(field.get("$ref", "").rpartition("/")[2], {}), **field}.get("description")
    ]
    assert not bare


def test_the_form_of_an_inference() -> None:
    schema = parameter_schema(dataset_inference)
    assert schema.required == ["predict"]
    ordered = sorted(schema.properties, key=lambda name: schema.properties[name]["position"])
    assert ordered == ["predict", "refresh", "ingest", "train", "evaluate", "executor", "retry", "alerts"]
    expected = {
        "PredictConfig",
        "NetworkConfig",
        "InferenceConfig",
        "IngestConfig",
        "TrainConfig",
        "ExecutorConfig",
        "RetryPolicy",
        "AlertLimits",
    }
    assert set(definitions(dataset_inference)) == expected
    assert definitions(dataset_inference)["ExecutorConfig"]["properties"]["kind"]["enum"] == ["local", "ray"]


def test_a_deployment_holds_what_differs_from_the_defaults() -> None:
    network = NetworkConfig(model="darknet", option=("cfg=a.cfg",), labels="names.txt")
    config = PredictConfig("street", network=network, shard_size=64, batch_size=2)
    sparse = {"model": "darknet", "option": ["cfg=a.cfg"], "labels": "names.txt"}
    assert given(config) == {"dataset": "street", "network": sparse, "batch_size": 2}
    assert given(ExecutorConfig()) == {}
    assert dataset_inference.validate_parameters({"predict": given(config)})["predict"] == config
