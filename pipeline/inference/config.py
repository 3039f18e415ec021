"""What to predict, with what, and how: settings, imported without torch, so that a wrong option is reported at once."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, Literal, get_args

from cyclopts import Parameter

from shardlens.pipeline.errors import ConfigError
from shardlens.pipeline.images.policy import DecodeScale
from shardlens.pipeline.networks.config import NetworkConfig
from shardlens.pipeline.warehouse.layout import WarehouseRoot

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class InferenceConfig:
    """What is done around the network."""

    _: KW_ONLY
    tile: int = 0
    """Predict larger images in tiles of this many pixels a side; 0: every image in one piece."""
    overlap: int = 64
    """Pixels that neighboring tiles share: at least the size of the largest object (detectors) or the receptive field
    (segmenters)."""
    tta: str = ""
    """Semantic models: test-time augmentation, views to average over, such as flip,0.75,1.25: flip, vflip (upside down) and
    scales, all combined."""
    ensemble: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """Semantic models: URI of a further checkpoint with the same labels to average over; may be repeated."""
    threshold: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """Semantic models: LABEL=F, the label gets the pixels where its probability is F or more, the others by argmax."""
    fill_holes: Annotated[bool, Parameter(negative="")] = False
    """Semantic models: enclosed background joins the surrounding region (lowest label wins)."""
    min_area: int = 0
    """Semantic models: connected components of fewer pixels become background."""
    largest_component: Annotated[bool, Parameter(negative="")] = False
    """Semantic models: keep only the largest connected component of each class."""
    components: Annotated[bool, Parameter(negative="")] = False
    """Semantic models: write a row for each connected component, as an object, instead of one for each class."""

    def __post_init__(self) -> None:
        for name in ("tile", "overlap", "min_area"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected 0 or more")
        if self.tile and self.overlap >= self.tile:
            raise ConfigError(
                f"overlap {self.overlap} of tiles of {self.tile} pixels: expected less than a tile's side"
            )


@dataclass(frozen=True)
class PredictConfig:
    """What to predict, with what, and how."""

    dataset: str
    """Name of an ingested dataset; NAME@VERSION for another version than the latest."""
    _: KW_ONLY
    network: Annotated[NetworkConfig, Parameter(name="*")] = field(default_factory=NetworkConfig)
    """Which network, with which weights."""
    inference: Annotated[InferenceConfig, Parameter(name="*")] = field(default_factory=InferenceConfig)
    """What is done around it: tiles, views, post-processing."""
    run: str | None = None
    """Name of the run; default: the model's name and a digest of the settings, so that the same command resumes."""
    split: str | None = None
    """Predict only this split; default: all images."""
    batch_size: int = 8
    """Maximum number of images in a batch; the images of a batch have one padded shape."""
    shard_size: int = 64
    """Images per shard: the unit of publishing, retry and resume."""
    precision: Precision = "auto"
    """fp32, bf16, fp16, or auto: bf16 if it is faster on the machine that runs the command (the driver), else fp32."""
    decode_scale: DecodeScale = "full"
    """auto: a detector is given a JPEG of twice the size that it looks at, or more, decoded at a half or less; full: never."""
    compiled: Annotated[bool, Parameter(name="compile", negative="")] = False
    """Compile the network first (torch.compile): slower to start, for long runs."""
    max_pixels: int = 100_000_000
    """Larger images are quarantined by their header."""
    value_range: str = "auto"
    """LOW:HIGH, such as 0:4095: the values that become 0 and 255 in images of more than 8 bits a value; auto: the smallest
    usual depth that holds an image's values."""
    accept_missing_end: Annotated[bool, Parameter(negative="")] = False
    """Accept JPEGs that have all of their pixels and lack only the marker of their end."""
    image_timeout: float = 60.0
    """Seconds after which the decoding of an image is ended, and the image quarantined; 0: never."""
    full: Annotated[bool, Parameter(negative="")] = False
    """Predict every image. Otherwise the rows of images that have not changed are taken over from the last run of the same
    settings over an earlier version of the dataset."""
    max_quarantined: float = 0.01
    """Fraction of images that may be quarantined; above it the run fails, after everything else has been written."""
    warehouse: WarehouseRoot = "./warehouse"
    """Root of the tables."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "shard_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected 1 or more")
        if self.precision not in get_args(Precision):
            raise ConfigError(f"precision {self.precision!r}: expected {', '.join(get_args(Precision))}")
        if not 0 <= self.max_quarantined <= 1:
            raise ConfigError(f"max_quarantined {self.max_quarantined}: expected a share from 0 to 1")


@dataclass(frozen=True)
class PredictRequest(PredictConfig):
    """A prediction as the command line requests it: a retry of quarantined images names a run, and no dataset."""

    dataset: str = ""
    """Name of an ingested dataset; NAME@VERSION for another version than the latest."""
