"""Small networks and inputs for the tests of the zoo."""

import torch
from torch import Tensor, nn

from shardlens.models import build, find
from shardlens.models.options import parameters
from tests.models.small import SMALL, Value

CLASSES = 4
"""Labels of the sample networks, the background's included where there is one."""

TINY_CFG = """
[net]
width=64
height=32
channels=3

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky

[maxpool]
size=2
stride=1

[route]  # layer 2: the second half of the channels
layers=-1
groups=2
group_id=1

[convolutional]
filters=4
size=1
activation=mish

[shortcut]
from=-2
activation=linear

[dropout]
probability=.2

[upsample]
stride=2

[maxpool]
size=2
stride=2

[route]
layers=-1, 1

[convolutional]
filters=27
size=1
activation=linear

[yolo]
mask = 0,1,2
anchors = 5,7, 12,9, 20,24, 30,30
classes=4
scale_x_y=1.05
"""


def sample_options(name: str) -> dict[str, Value]:
    """Options that keep the network small and its scores unfiltered: those of `SMALL`, else what torchvision's take."""
    if name in SMALL:
        return dict(SMALL[name].options)
    taken = parameters(find(name).build)
    small: dict[str, Value] = {
        "cfg": TINY_CFG,
        "min_size": "64",
        "max_size": 96,
        "score_threshold": "0.001",
        "detections_per_image": 20,
        "regions_per_image": 32,
    }
    return {key: value for key, value in small.items() if key in taken}


def sample_network(name: str, seed: int = 0) -> nn.Module:
    """A small random network of the zoo; its normalizations have seen a batch, so that its outputs tell inputs apart."""
    torch.manual_seed(seed)
    model = build(name, CLASSES, sample_options(name))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    if find(name).trainable:
        with torch.no_grad():
            run_training(name, model.train())
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def sample_images(*sizes: tuple[int, int]) -> list[Tensor]:
    """Images (3, h, w) in [0, 1]: noise over a gradient, the same every time."""
    generator = torch.Generator().manual_seed(7)
    return [torch.rand(3, h, w, generator=generator) * torch.linspace(0.2, 1, w) for h, w in sizes]


def sample_target(height: int, width: int, objects: int) -> dict[str, Tensor]:
    """A detection target with `objects` boxes and masks."""
    boxes = torch.tensor([[4.0 + 9 * i, 5.0, 30.0 + 9 * i, 5.0 + 20 + i] for i in range(objects)]).reshape(-1, 4)
    masks = torch.zeros(objects, height, width, dtype=torch.uint8)
    masks[:, 8:20, 10:24] = 1
    return {"boxes": boxes, "labels": torch.arange(objects) % (CLASSES - 1) + 1, "masks": masks}


def run_training(name: str, model: nn.Module, objects: int = 2) -> Tensor:
    """The sum of the losses on a batch whose second image has no object, nor the first if `objects` is 0."""
    if find(name).task == "semantic":
        outputs = model(torch.stack(sample_images((65, 97), (65, 97))))
        truth = torch.zeros(2, 65, 97, dtype=torch.int64)
        truth[0, 10:30, 10:40] = min(objects, 1)
        return torch.stack([nn.functional.cross_entropy(logits, truth) for logits in outputs.values()]).sum()
    targets = [sample_target(65, 97, objects), sample_target(64, 64, 0)]
    if find(name).task == "panoptic":
        targets = [{**target, "map": target["masks"].sum(0).clamp(max=1).byte()} for target in targets]
    images = sample_images((65, 97), (64, 64))
    if find(name).fits_at_once:
        return torch.tensor(model.fit_batches([(images, targets)])["hinge"])
    losses = model(images, targets)
    return sum(losses.values())
