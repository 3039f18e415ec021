"""The zoo's tester: every network keeps the contract of its spec."""

import copy
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from shardlens.models import MODELS, build, find, zoo
from shardlens.models.errors import ModelError
from shardlens.models.folding import fold_batch_norms
from shardlens.models.inputs import prepare, restore
from shardlens.models.spec import BACKGROUND
from shardlens.pipeline.networks.weights import Checkpoint, load, read_checkpoint, save
from tests.models.samples import CLASSES, TINY_CFG, run_training, sample_images, sample_network, sample_options

DEEPER = {"fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn_v2", "fcn_resnet101", "deeplabv3_resnet101"}
"""Slow, and of the same code as a network beside them: they are only built and asked once."""
CUT_TO_NOTHING = {"retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn"}
"""Torchvision's own, as they are: boxes beside the image, cut to it, are detections without width or height."""
_SSD = ("backbone.scale_weight", "backbone.extra.", "head.")
STILL = {
    "ssd300_vgg16": _SSD,  # a level learns where an object lies on it, or one of the few hardest negatives
    "ssdlite320_mobilenet_v3_large": _SSD,
    "efficientdet": ("head.boxes.norms.",),  # each level has its own, and only those with an object learn its box
    # the first decoder layer begins with zeros, so that attention among the queries has nothing to give
    "detr": ("transformer.decoder.layers.0.self_attn.", "transformer.decoder.layers.0.norm1."),
}
"""Beginnings of the names of parameters to which one step may give a gradient of zero."""


@pytest.fixture(scope="module", params=list(MODELS))
def network(request):
    return request.param, sample_network(request.param)


def predict(name, model, images):
    """What the network says of the images, as the pipeline asks it."""
    with torch.inference_mode():
        if find(name).task != "semantic":
            return model(images)
        rule = replace(find(name).input_rule(model), min_size=48)
        sizes = [tuple(image.shape[1:]) for image in images]
        return [{"logits": m} for m in restore(model(prepare(images, rule).to(images[0].dtype))["out"], rule, sizes)]


def check_detections(name, found):
    boxes, labels, scores = found["boxes"], found["labels"], found["scores"]
    assert boxes.shape == (len(labels), 4) == (len(scores), 4)
    assert boxes.dtype == scores.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert len(boxes) > 0
    assert torch.isfinite(boxes).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all() or name in CUT_TO_NOTHING
    assert set(labels.tolist()) <= set(range(CLASSES))
    assert ((scores > 0.001) & (scores <= 1)).all()


@pytest.mark.parametrize("size", [(33, 70), (65, 97)], ids=str)
def test_predicts_images_of_odd_sizes(network, size):
    name, model = network
    (found,) = predict(name, model, sample_images(size))
    if find(name).task == "semantic":
        assert found["logits"].shape == (CLASSES, *size)
        assert torch.isfinite(found["logits"]).all()
    else:
        check_detections(name, found)
        assert ("masks" in found) == (find(name).task == "instance")
        assert found.get("masks", torch.empty(0, 1, *size)).shape[1:] == (1, *size)


def test_one_image_is_predicted_as_in_a_batch(network):
    name, model = network
    if name in DEEPER:
        return
    model = copy.deepcopy(model).double()  # random deep networks amplify float32's rounding
    images = [image.double() for image in sample_images((64, 80), (64, 80))]
    together = predict(name, model, images)
    for image, batched in zip(images, together, strict=True):
        (alone,) = predict(name, model, [image])
        assert alone.keys() == batched.keys()
        for key, value in alone.items():
            torch.testing.assert_close(value, batched[key], rtol=1e-5, atol=1e-5)


def test_folded_norms_change_nothing(network):
    name, model = network
    folded = copy.deepcopy(model).double()
    if name in DEEPER or not fold_batch_norms(folded):
        return
    images = [image.double() for image in sample_images((64, 80))]
    (expected,) = predict(name, copy.deepcopy(model).double(), images)
    (found,) = predict(name, folded, images)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5)


def every_block(model):
    """Let no block be left out at random."""
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0
    return model


@pytest.mark.parametrize("objects", [2, 0])
def test_trains_with_and_without_objects(network, objects):
    name, model = network
    if name in DEEPER or not find(name).trainable or find(name).fits_at_once:
        return
    model = every_block(copy.deepcopy(model).train())
    torch.manual_seed(0)
    loss = run_training(name, model, objects)
    loss.backward()
    assert torch.isfinite(loss)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in gradients)
    assert sum(float(g.abs().sum()) for g in gradients) > 0 or (objects == 0 and name.startswith("ssd"))
    if objects:  # every trainable parameter learns
        trained = {key: value.grad for key, value in model.named_parameters() if value.requires_grad}
        assert [key for key, gradient in trained.items() if gradient is None] == []
        still = [key for key, gradient in trained.items() if not gradient.any()]
        assert [key for key in still if not key.startswith(STILL.get(name, ()))] == []


def test_a_checkpoint_gives_the_network_back(network):
    name, model = network
    labels = tuple(f"label {i}" for i in range(CLASSES))
    data = save(model, Checkpoint(name, sample_options(name), labels))
    told = read_checkpoint(data)
    again = build(told.model, len(told.labels), told.options)
    load(again, data, "checkpoint")
    assert told.labels == labels
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", list(MODELS))
def test_specs_are_complete(name):
    spec = MODELS[name]
    assert spec.name == name
    assert spec.paper.startswith("https://")
    assert spec.labels is None or (spec.labels[0] == BACKGROUND) == spec.background
    assert spec.score_option is None or spec.score_option in sample_options(name)


def test_the_nearest_names_are_listed_first():
    with pytest.raises(
        ModelError, match=r"'fasterrcn_resnet50'; nearest: fasterrcnn_resnet50_fpn, .*`shardlens models`"
    ):
        find("fasterrcn_resnet50")
    with pytest.raises(ModelError, match=rf"'\?\?'; `shardlens models` lists all {len(MODELS)}"):
        find("??")


def test_the_runs_threshold_goes_before_the_options():
    options = {"cfg": TINY_CFG, "score_threshold": "0.1"}
    assert build("darknet", CLASSES, options).selection.score_threshold == 0.1
    assert build("darknet", CLASSES, options, score_threshold=0.3).selection.score_threshold == 0.3
    assert isinstance(build("unet", 2, score_threshold=0.3), nn.Module)


@pytest.mark.parametrize(
    ("name", "classes", "least"), [("unet", 1, "2 labels, the background's included"), ("darknet", 0, "1 labels")]
)
def test_too_few_labels(name, classes, least):
    with pytest.raises(ModelError, match=rf"{name} needs at least {least}; {classes} given"):
        build(name, classes)


def test_names_are_unique():
    assert len(zoo.SPECS) == len({spec.name for spec in zoo.SPECS}) == len(MODELS)


def test_errors_and_specs_do_without_torch():
    imports = "import sys; from shardlens import models; import shardlens.models.errors, shardlens.models.spec"
    code = f"{imports}; assert 'torch' not in sys.modules; models.find('unet'); models.nothing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "module 'shardlens.models' has no attribute 'nothing'; it has MODELS, build, find" in done.stderr


def test_the_outline_is_that_of_the_network_itself():
    model = build("fcos_small", 21)
    assert zoo.outline(find("fcos_small")) == (
        sum(p.numel() for p in model.parameters()),
        find("fcos_small").input_rule(model),
    )
    assert zoo.outline(find("darknet")) is None


def test_every_network_but_darknet_has_an_outline():
    assert [name for name, spec in MODELS.items() if zoo.outline(spec) is None] == ["darknet"]
