"""How DETR is built, and what the zoo says of it."""

from __future__ import annotations

from torchvision.models import get_model_weights

from shardlens.models.detection.detr.network import DETR, Body, resize_and_normalize
from shardlens.models.detection.detr.transformer import Transformer
from shardlens.models.errors import ModelError
from shardlens.models.options import require
from shardlens.models.spec import ModelSpec, Published
from shardlens.models.torchvision_zoo import transform_rule


def _build(
    *,
    num_classes: int,
    backbone: str = "resnet50",
    stride: int = 32,
    frozen: bool = True,
    layers: int = 6,
    width: int = 256,
    heads: int = 8,
    feedforward: int = 2048,
    dropout: float = 0.1,
    queries: int = 100,
    min_size: int = 800,
    max_size: int = 1333,
    score_threshold: float = 0.05,
) -> DETR:
    """`layers` in the encoder and as many in the decoder, `width` channels wide.

    `frozen` holds the backbone's norms and first stage, which want ImageNet's values; a backbone that begins with random
    weights learns better without.
    """
    require("layers", layers, 1, 24)
    require("heads", heads, 1, 64)
    require("width", width, 4, 2048)
    require("feedforward", feedforward, 1)
    require("dropout", dropout, 0, 0.9)
    require("queries", queries, 1, 10_000)
    require("min_size", min_size, 32)
    require("max_size", max_size, min_size)
    require("score_threshold", score_threshold, 0, 1)
    if width % heads or width % 4:
        raise ModelError(f"option width is {width}; it must be a multiple of 4 and of the {heads} heads")
    return DETR(
        num_classes,
        Body(backbone, stride, frozen),
        Transformer(layers, width, heads, feedforward, dropout),
        resize_and_normalize(min_size, max_size),
        queries,
        score_threshold,
    )


SPEC = ModelSpec(
    name="detr",
    task="detection",
    build=_build,
    input_rule=transform_rule,
    paper="https://arxiv.org/abs/2005.12872",
    score_option="score_threshold",
    labels=tuple(get_model_weights("fasterrcnn_resnet50_fpn").DEFAULT.meta["categories"]),
    published={"COCO": Published("https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth", "e632da11")},
)
