"""U-Net++, PSPNet, DeepLabV3+ and FPN of segmentation_models.pytorch, on any of its encoders.

The library is an extra, imported when such a network is built. Its encoder's weights are never downloaded; the encoder
is kept as `backbone`, where an ImageNet classifier's names fit.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from shardlens.models.backbones import MEAN, STD
from shardlens.models.errors import ModelError
from shardlens.models.norms import steady
from shardlens.models.options import nearest, require
from shardlens.models.segmentation.borders import pad_to_multiple
from shardlens.models.spec import InputRule, ModelSpec

_MULTIPLE = 32


class EncoderDecoder(nn.Module):
    """A network of the library, by its parts."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.backbone = network.get_submodule("encoder")
        self.decoder = network.get_submodule("decoder")
        self.segmentation_head = network.get_submodule("segmentation_head")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (N, K, H, W) under "out" of normalized images (N, 3, H, W); any H and W, padded with zeros inside."""
        height, width = images.shape[-2:]
        features = self.backbone(pad_to_multiple(images, _MULTIPLE))
        logits = self.segmentation_head(self.decoder(features))
        return {"out": logits[..., :height, :width]}


def _unetplusplus(*, num_classes: int, encoder: str = "resnet34", width: int = 16) -> nn.Module:
    """`width` is of the largest of five scales; it doubles at every halving."""
    require("width", width, 1, 256)
    channels = tuple(width << level for level in (4, 3, 2, 1, 0))
    return _network("unetplusplus", "UnetPlusPlus", encoder, num_classes, decoder_channels=channels)


def _pspnet(*, num_classes: int, encoder: str = "resnet34", width: int = 512) -> nn.Module:
    """The encoder is dilated to stride 8, as in the paper; `width` is of the pooled features."""
    require("width", width, 1, 4096)
    settings = {"encoder_depth": 5, "output_stride": 8, "upsampling": 8, "psp_out_channels": width}
    return _network("pspnet", "PSPNet", encoder, num_classes, **settings)


def _deeplabv3plus(*, num_classes: int, encoder: str = "resnet34", width: int = 256) -> nn.Module:
    """`width` is the decoder's."""
    require("width", width, 1, 4096)
    return _network("deeplabv3plus", "DeepLabV3Plus", encoder, num_classes, decoder_channels=width)


def _fpn(*, num_classes: int, encoder: str = "resnet34", width: int = 256) -> nn.Module:
    """`width` is the pyramid's; the segmentation branch has half of it, in groups of 32."""
    require("width", width, 2, 4096)
    settings = {"decoder_pyramid_channels": width, "decoder_segmentation_channels": width // 2}
    return _network("fpn", "FPN", encoder, num_classes, **settings)


def _network(name: str, kind: str, encoder: str, num_classes: int, **settings: Any) -> nn.Module:
    library = _library(name)
    _check_encoder(library, encoder)
    try:
        network = getattr(library, kind)(encoder, encoder_weights=None, classes=num_classes, **settings)
    except (ValueError, NotImplementedError) as error:
        raise ModelError(f"{name} cannot be built on the encoder {encoder}: {error}") from error
    return steady(EncoderDecoder(network))


def _library(name: str) -> ModuleType:
    try:
        import segmentation_models_pytorch
    except ModuleNotFoundError as error:
        raise ModelError(f"{name} needs the package {error.name}, an extra: pip install 'shardlens[smp]'") from error
    module: ModuleType = segmentation_models_pytorch
    return module


def _check_encoder(library: ModuleType, encoder: str) -> None:
    """Refuse an encoder that the library lacks; its own name it has, and timm's after "tu-"."""
    import timm

    known = [*library.encoders.get_encoder_names(), *(f"tu-{name}" for name in timm.list_models())]
    if encoder not in known:
        close = ", ".join(nearest(encoder, known)) or "none"
        raise ModelError(f"segmentation_models_pytorch has no encoder {encoder!r}; nearest: {close}")


def _rule(model: nn.Module) -> InputRule:
    return InputRule(multiple=_MULTIPLE, mean=MEAN, std=STD)


def _spec(name: str, build: Callable[..., nn.Module], paper: str) -> ModelSpec:
    return ModelSpec(
        name=name,
        task="semantic",
        build=build,
        input_rule=_rule,
        paper=f"https://arxiv.org/abs/{paper}",
        source="segmentation_models_pytorch",
    )


SPECS: tuple[ModelSpec, ...] = (
    _spec("unetplusplus", _unetplusplus, "1807.10165"),
    _spec("pspnet", _pspnet, "1612.01105"),
    _spec("deeplabv3plus", _deeplabv3plus, "1802.02611"),
    _spec("fpn", _fpn, "1612.03144"),
)
