"""R-CNN: selective search, a fixed network's features of each warped region, a linear SVM and a box regressor a class.

https://arxiv.org/abs/1311.2524
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import roi_align

from shardlens.models.backbones import MEAN, STD
from shardlens.models.boxes.coding import decode
from shardlens.models.detection.external_proposals import ExternalProposals, external_proposals
from shardlens.models.detection.rcnn_mining import ClassExamples, MiningRule
from shardlens.models.detection.region_heads import Target
from shardlens.models.detection.selection import Detections, Selection, by_class, selection
from shardlens.models.errors import ModelError
from shardlens.models.options import nearest, require
from shardlens.models.spec import InputRule, ModelSpec

CONTEXT = 16
"""Pixels around the region in a warped window, on each side."""
_NORM = 20.0
"""Mean length of the features that the machines see."""
_AT_ONCE = 128
_UNFITTED = -20.0
"""Margin that the machine of a class without examples gives: a score of 2e-9, below every threshold."""


class RCNN(nn.Module):
    """A network that no gradient trains: `fit_batches` fits its machines, which are buffers next to the features' weights.

    Attributes:
        backbone: a classifier without its last layer, (N, 3, side, side) to (N, D); it stays as it was loaded.
        svm_weights, svm_biases: (K - 1, D) and (K - 1,), for the classes from 1 on.
        box_weights, box_biases: (K - 1, 4, D) and (K - 1, 4).
        feature_scale: what the features are multiplied by.
    """

    svm_weights: Tensor
    svm_biases: Tensor
    box_weights: Tensor
    box_biases: Tensor
    feature_scale: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        proposals: ExternalProposals,
        num_classes: int,
        side: int,
        select: Selection,
        rule: MiningRule,
    ) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        self.proposals = proposals
        self.side = side
        self.select = select
        self.rule = rule
        classes, width = num_classes - 1, _width(self.backbone, side)
        self.register_buffer("svm_weights", torch.zeros(classes, width))
        self.register_buffer("svm_biases", torch.full((classes,), _UNFITTED))
        self.register_buffer("box_weights", torch.zeros(classes, 4, width))
        self.register_buffer("box_biases", torch.zeros(classes, 4))
        self.register_buffer("feature_scale", torch.ones(()))

    def train(self, mode: bool = True) -> RCNN:
        """Switch to training; the backbone stays in evaluation."""
        super().train(mode)
        self.backbone.eval()
        return self

    @torch.no_grad()
    def features(self, image: Tensor, boxes: Tensor) -> Tensor:
        """Features (N, D) of the regions `boxes` (N, 4) xyxy of an image (3, H, W) in [0, 1], before their scaling."""
        mean, std = (image.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        normal = ((image - mean) / std)[None]
        parts = [self.backbone(warped(normal, part, self.side)).flatten(1) for part in torch.split(boxes, _AT_ONCE)]
        return torch.cat(parts) if parts else image.new_zeros(0, self.svm_weights.shape[1])

    def fit_batches(self, batches: Iterable[tuple[list[Tensor], list[dict[str, Tensor]]]]) -> dict[str, float]:
        """Fit the machines to one pass over images (3, H, W) in [0, 1] with their boxes and labels.

        Returns:
            `hinge`: mean over the classes of that of the examples kept.
        """
        examples = [ClassExamples(self.rule) for _ in self.svm_biases]
        for number, (image, target) in enumerate(_singly(batches)):
            regions = self.proposals([image])[0]
            raw = self.features(image, torch.cat([regions, target["boxes"]]))
            if number == 0:
                self.feature_scale.copy_(_NORM / raw.norm(dim=1).mean().clamp(min=1e-6))
            features = raw * self.feature_scale
            own = features[len(regions) :]
            for label, each in enumerate(examples, start=1):
                mine = target["labels"] == label
                each.take(features[: len(regions)], regions, target["boxes"][mine], own[mine])
        return self._fit(examples)

    def _fit(self, examples: Sequence[ClassExamples]) -> dict[str, float]:
        for i, each in enumerate(examples):
            if each.positives:
                self.svm_weights[i], self.svm_biases[i] = each.refit()
            found = each.regressor()
            if found is not None:
                self.box_weights[i], self.box_biases[i] = found
        return {"hinge": sum(each.hinge() for each in examples) / len(examples)}

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """Detections of each image in its pixels; scores are the logistic function of the machines' margins.

        Raises:
            ModelError: in training, for there is nothing to differentiate.
        """
        if self.training:
            raise ModelError("R-CNN has no losses to differentiate: fit it with fit_batches, as `shardlens train` does")
        return [self._detect(image) for image in images]

    def _detect(self, image: Tensor) -> Detections:
        regions = self.proposals([image])[0].to(image)
        features = self.features(image, regions) * self.feature_scale
        margins = features @ self.svm_weights.T + self.svm_biases
        codes = torch.einsum("nd,kcd->nkc", features, self.box_weights) + self.box_biases
        boxes = torch.unflatten(decode(codes.flatten(1), regions), 1, (-1, 4))
        background = boxes.new_zeros(len(regions), 1)
        scores = torch.cat([background, margins.sigmoid()], dim=1)
        size = (image.shape[1], image.shape[2])
        return self.select(*by_class(torch.cat([regions[:, None], boxes], dim=1), scores), size)


def warped(image: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Regions of a normalized image (1, 3, H, W) stretched to (N, 3, side, side), with 16 pixels of context around each.

    What lies outside of the image is its mean color, 0.
    """
    centers, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    reach = sides * (side / (side - 2 * CONTEXT)) / 2
    wide = torch.cat([centers - reach, centers + reach], dim=1)
    windows: Tensor = roi_align(image, [wide], side, sampling_ratio=1, aligned=True)
    return windows


@torch.no_grad()
def _width(backbone: nn.Module, side: int) -> int:
    try:
        return int(backbone(torch.zeros(1, 3, side, side)).shape[1])
    except (RuntimeError, AssertionError, ValueError) as error:  # each network of torchvision has its own way
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ModelError(
            f"option side is {side}; the backbone takes no regions of that size ({reason}): give another side or backbone"
        ) from error


def _singly(
    batches: Iterable[tuple[list[Tensor], list[dict[str, Tensor]]]],
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    for images, targets in batches:
        yield from zip(images, targets, strict=True)


def headless(name: str) -> nn.Module:
    """Torchvision's classifier `name`, random, without its last dense layer.

    Raises:
        ModelError: there is none of that name, or it does not end in a dense layer.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ModelError(f"no backbone is called {name!r}; nearest: {', '.join(nearest(name, known)) or 'none'}")
    network: nn.Module = torchvision.models.get_model(name, weights=None)
    *_, (place, last) = network.named_modules()
    if not isinstance(last, nn.Linear):
        raise ModelError(f"{name} does not end in a dense layer; expected one such as alexnet, vgg16 or resnet50")
    parent, _, attribute = place.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Identity())
    return network


def _build(
    *,
    num_classes: int,
    backbone: str = "alexnet",
    side: int = 227,
    search: str = "fast",
    proposals: int = 2000,
    svm_cost: float = 1e-3,
    ridge: float = 1000.0,
    refit: int = 2000,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.3,
    suppression: str = "hard",
    detections_per_image: int = 100,
) -> nn.Module:
    """`side` of the warped regions; `search`: fast or single; `refit`: new negatives after which a machine is fitted anew."""
    require("side", side, 2 * CONTEXT + 1)
    require("proposals", proposals, 1)
    for name, value in (("svm_cost", svm_cost), ("ridge", ridge)):
        require(name, value, 1e-12)
    require("refit", refit, 1)
    select = selection(score_threshold, nms_threshold, detections_per_image, suppression)
    rule = MiningRule(refit, svm_cost, ridge)
    return RCNN(headless(backbone), external_proposals(search, proposals), num_classes, side, select, rule)


def _own_size(_: nn.Module) -> InputRule:
    return InputRule()


SPEC = ModelSpec(
    name="rcnn",
    task="detection",
    build=_build,
    input_rule=_own_size,
    paper="https://arxiv.org/abs/1311.2524",
    score_option="score_threshold",
    fits_at_once=True,
)
