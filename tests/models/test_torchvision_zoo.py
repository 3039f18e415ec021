import pytest
import torch
from torch import nn
from torchvision.models import detection as tv_detection
from torchvision.models import get_model_weights, list_models
from torchvision.models import segmentation as tv_segmentation

from shardlens.models import MODELS, build, find
from shardlens.models.errors import ModelError

OURS = {name for name, spec in MODELS.items() if spec.source == "torchvision"}


def on_no_device(name, **options):
    """The network's structure without its numbers: built in no time."""
    with torch.device("meta"):
        return build(name, len(find(name).labels), options)


def test_every_detector_and_segmenter_of_torchvision_is_listed():
    theirs = set(list_models(tv_detection)) | set(list_models(tv_segmentation))
    assert theirs - OURS == {"keypointrcnn_resnet50_fpn"}


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_published_weights_fit_the_network(name):
    weights = get_model_weights(name).DEFAULT
    model = on_no_device(name)
    norms = sum(p.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    ours = sum(p.numel() for p in model.parameters())
    assert weights.meta["num_params"] in (ours, ours - norms)  # frozen ones are no parameters there
    assert list(find(name).labels) == weights.meta["categories"]
    assert find(name).published["DEFAULT"].url == weights.url
    assert weights.url.endswith(f"-{find(name).published[weights.name].sha256}.pth")


def test_labels():
    coco = find("ssd300_vgg16").labels
    voc = find("fcn_resnet50").labels
    assert (len(coco), coco[0], coco[1], coco[12]) == (91, "__background__", "person", "N/A")
    assert (len(voc), voc[0], voc[20]) == (21, "__background__", "tvmonitor")


def test_options_reach_torchvision():
    given = {"score_threshold": "0.3", "nms_threshold": "0.4", "detections_per_image": "7"}
    rcnn = on_no_device("maskrcnn_resnet50_fpn", **given, min_size="200", max_size="300", regions_per_image="32")
    assert rcnn.roi_heads.fg_bg_sampler.batch_size_per_image == 32
    assert (rcnn.roi_heads.score_thresh, rcnn.roi_heads.nms_thresh, rcnn.roi_heads.detections_per_img) == (0.3, 0.4, 7)
    assert (rcnn.transform.min_size, rcnn.transform.max_size) == ((200,), 300)
    for name in ("fcos_resnet50_fpn", "retinanet_resnet50_fpn", "ssd300_vgg16", "ssdlite320_mobilenet_v3_large"):
        model = on_no_device(name, **given)
        assert (model.score_thresh, model.nms_thresh, model.detections_per_img) == (0.3, 0.4, 7)
    assert on_no_device("fcn_resnet50", aux_loss="no").aux_classifier is None


@pytest.mark.parametrize("name", ["fcn_resnet50", "lraspp_mobilenet_v3_large"])
def test_semantic_networks_see_images_at_the_size_of_torchvisions_recipe_or_another(name):
    rule = find(name).input_rule
    preset = get_model_weights(name).DEFAULT.transforms()
    assert rule(on_no_device(name)).resized(260, 520) == (preset.resize_size[0], 2 * preset.resize_size[0])
    assert rule(on_no_device(name, min_size="128")).resized(260, 520) == (128, 256)
    assert rule(on_no_device(name, min_size="0")).resized(261, 520) == (261, 520)
    with pytest.raises(ModelError, match="min_size is -1; it must be at least 0"):
        on_no_device(name, min_size=-1)


@pytest.mark.parametrize("name", ["fcos_resnet50_fpn", "ssd300_vgg16", "retinanet_resnet50_fpn_v2"])
def test_defaults_are_torchvisions_own(name):
    with torch.device("meta"):
        theirs = getattr(tv_detection, name)(weights=None, weights_backbone=None)
    ours = on_no_device(name)
    for setting in ("score_thresh", "nms_thresh", "detections_per_img", "topk_candidates"):
        assert getattr(ours, setting) == getattr(theirs, setting)


def test_the_320_network_keeps_its_own_sizes_and_proposals():
    model = on_no_device("fasterrcnn_mobilenet_v3_large_320_fpn")
    assert (model.transform.min_size, model.transform.max_size) == ((320,), 640)
    assert model.rpn.post_nms_top_n() == 2000
    assert model.eval().rpn.post_nms_top_n() == 150


def test_the_first_resnet_weights_want_norms_without_epsilon():
    published = find("fasterrcnn_resnet50_fpn").published["COCO_V1"]
    assert published.options == {"norm_eps": 0.0}
    model = on_no_device("fasterrcnn_resnet50_fpn", **published.options)
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.0}
    assert find("fasterrcnn_resnet50_fpn_v2").published["COCO_V1"].options == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 1.5}, "score_threshold is 1.5; it must be between 0 and 1"),
        ({"nms_threshold": -1}, "nms_threshold is -1.0; it must be between 0 and 1"),
        ({"detections_per_image": 0}, "detections_per_image is 0; it must be at least 1"),
        ({"min_size": 0}, "min_size is 0; it must be at least 1"),
        ({"min_size": 900, "max_size": 800}, "max_size is 800; it must be at least 900"),
    ],
)
def test_senseless_options_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        build("fasterrcnn_resnet50_fpn", 3, options)
