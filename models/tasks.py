"""What a model of each task is trained on and predicts, so that no caller has to compare names of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shardlens.models.spec import Task


@dataclass(frozen=True)
class ModelTask:
    """The targets and outputs of the models of one task."""

    name: Task
    needs: str
    """What an image must show to be of use in training, as a message names it."""
    objects: bool
    """Objects with a box and a label each; such networks take images of any size and resize them themselves."""
    object_masks: bool
    """A mask for each object."""
    label_map: bool
    """A label for each pixel."""

    @property
    def masks(self) -> bool:
        """Whether annotations without a mask are of no use."""
        return self.object_masks or self.label_map

    @property
    def stuff(self) -> bool:
        """Whether labels are things or stuff."""
        return self.objects and self.label_map


MODEL_TASKS: Mapping[str, ModelTask] = {
    task.name: task
    for task in (
        ModelTask("detection", "box", objects=True, object_masks=False, label_map=False),
        ModelTask("instance", "object's mask", objects=True, object_masks=True, label_map=False),
        ModelTask("semantic", "mask", objects=False, object_masks=False, label_map=True),
        ModelTask("panoptic", "mask", objects=True, object_masks=True, label_map=True),
    )
}
