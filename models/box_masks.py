"""Mask R-CNN's masks as the network makes them, small and per box, instead of pasted into images of full size.

A hundred masks of a 1920 x 1080 image are 0.8 GB when pasted, and 0.3 MB as 28 x 28 probabilities; whoever encodes them
as run lengths needs no pasted ones. Mask R-CNN: https://arxiv.org/abs/1703.06870
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.transform import GeneralizedRCNNTransform


class BoxMaskTransform(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """torchvision's transform, but for the pasting: `masks` (N, 1, H, W) become `box_masks` (N, 1, M, M)."""

    def postprocess(
        self,
        result: list[dict[str, Tensor]],
        image_shapes: list[tuple[int, int]],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Scale the boxes to the images' own sizes; leave the probabilities of the masks as they are."""
        small = [found.pop("masks", None) for found in result]
        scaled: list[dict[str, Tensor]] = super().postprocess(result, image_shapes, original_image_sizes)
        for found, masks in zip(scaled, small, strict=True):
            if masks is not None:
                found["box_masks"] = masks
        return scaled


def keep_box_masks(model: nn.Module) -> None:
    """Let a Mask R-CNN of torchvision give `box_masks` in evaluation; other networks stay as they are."""
    if isinstance(model, MaskRCNN):
        model.transform = keeping_box_masks(model.transform)


def keeping_box_masks(old: GeneralizedRCNNTransform) -> BoxMaskTransform:
    """The same transform, but for the pasting."""
    new = BoxMaskTransform(
        old.min_size, old.max_size, old.image_mean, old.image_std, old.size_divisible, old.fixed_size
    )
    new.train(old.training)
    return new


@dataclass(frozen=True, eq=False)
class PastedMasks:
    """The masks of one image at its full size, each pasted when it is asked for."""

    box_masks: Tensor
    """(N, 1, M, M) probabilities."""
    boxes: Tensor
    """(N, 4) xyxy, in pixels of the image."""
    size: tuple[int, int]
    """Height and width of the image."""

    def __getitem__(self, i: int) -> Tensor:
        """(H, W) bool."""
        pasted: Tensor = paste_masks_in_image(self.box_masks[i : i + 1], self.boxes[i : i + 1], self.size)
        return pasted[0, 0] > 0.5
