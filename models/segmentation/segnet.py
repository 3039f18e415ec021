"""SegNet: a VGG encoder, and a decoder that puts each maximum back where it was. https://arxiv.org/abs/1511.00561"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from shardlens.models.backbones import MEAN, STD
from shardlens.models.segmentation.borders import pad_to_multiple
from shardlens.models.segmentation.vgg import VGG, convolution_layers, convolutions
from shardlens.models.spec import InputRule, ModelSpec


class SegNet(nn.Module):
    """As many unpoolings as poolings; the decoder's convolutions mirror the encoder's, the last one classifies."""

    def __init__(self, num_classes: int, backbone: VGG) -> None:
        super().__init__()
        self.backbone = backbone
        self.multiple = 1 << len(backbone.channels)
        self.decoder = nn.ModuleList(
            mirrored(stage, num_classes if first else None) for first, stage in _from_last(self.backbone.stages())
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (N, K, H, W) under "out" of normalized images (N, 3, H, W); any H and W, padded with zeros inside."""
        height, width = images.shape[-2:]
        x = pad_to_multiple(images, self.multiple)
        switches = []
        for stage in self.backbone.stages():
            x, indices = F.max_pool2d_with_indices(stage(x), [2, 2])
            switches.append(indices)
        for block, indices in zip(self.decoder, reversed(switches), strict=True):
            x = block(F.max_unpool2d(x, indices, [2, 2]))
        return {"out": x[..., :height, :width]}


def mirrored(stage: nn.Sequential, num_classes: int | None) -> nn.Sequential:
    """A stage's convolutions in reverse, from its output channels to its input's, or to scores of `num_classes`."""
    layers: list[nn.Module] = []
    normalized = any(isinstance(layer, nn.BatchNorm2d) for layer in stage)
    encoder = convolutions(stage)
    for convolution in reversed(encoder):
        layers += convolution_layers(convolution.out_channels, convolution.in_channels, normalized)
    if num_classes is None:
        return nn.Sequential(*layers)
    kept = len(layers) - len(layers) // len(encoder)
    return nn.Sequential(*layers[:kept], nn.Conv2d(encoder[0].out_channels, num_classes, 3, padding=1))


def _from_last(stages: list[nn.Sequential]) -> list[tuple[bool, nn.Sequential]]:
    return [(i == 0, stage) for i, stage in reversed(list(enumerate(stages)))]


def _build(*, num_classes: int, backbone: str = "vgg16_bn", width: int = 64, stages: int = 5) -> SegNet:
    """`backbone` is one of VGG's, `width` its channels at the largest scale, `stages` how often it pools."""
    return SegNet(num_classes, VGG(backbone, width, stages))


def _rule(model: nn.Module) -> InputRule:
    multiple = model.multiple
    assert isinstance(multiple, int)
    return InputRule(multiple=multiple, mean=MEAN, std=STD)


SPEC = ModelSpec(
    name="segnet",
    task="semantic",
    build=_build,
    input_rule=_rule,
    paper="https://arxiv.org/abs/1511.00561",
)
