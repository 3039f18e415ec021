"""Panoptic maps as rows, and back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from shardlens.pipeline import masks
from shardlens.pipeline.errors import ConfigError, DatasetError
from shardlens.pipeline.images.decode import Decoded
from shardlens.pipeline.images.orientation import mask_to_stored_frame
from shardlens.pipeline.inference.rows import from_panoptic, predictions_table
from shardlens.pipeline.masks.panoptic import rebuild
from shardlens.pipeline.networks.labels import LabelMap
from shardlens.pipeline.training.stuff import stuff_labels

LABELS = LabelMap((None, 4, 9), ("__background__", "disc", "sky"), ())


def output(seed: int = 0, height: int = 20, width: int = 30) -> dict[str, torch.Tensor]:
    """A random map of five segments, whose scores are in no order."""
    rng = np.random.default_rng(seed)
    panoptic = np.kron(rng.integers(0, 6, (height // 2, width // 2)), np.ones((2, 2), int))
    things = torch.tensor([True, True, False, True, False])
    return {
        "panoptic": torch.from_numpy(panoptic),
        "segment_labels": torch.where(things, 1, 2),
        "segment_scores": torch.tensor([0.5, 0.9, 0.7, 0.9, 0.1]),
        "segment_things": things,
    }


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rows_rebuild_the_map(orientation: int) -> None:
    given = output()
    size = (20, 30) if orientation < 5 else (30, 20)
    decoded = Decoded(np.zeros((20, 30, 3), np.uint8), orientation, *size)
    rows = predictions_table({7: from_panoptic(given, decoded)}, LABELS).to_pylist()
    assert [row["score"] for row in rows] == pytest.approx([0.9, 0.9, 0.7, 0.5, 0.1])
    assert [row["kind"] for row in rows] == ["instance", "instance", "region", "instance", "region"]
    assert [row["category_id"] for row in rows] == [4, 4, 9, 4, 9]
    new_number = np.array([0, 4, 1, 3, 2, 5])  # of the old ones, by rank
    expected = mask_to_stored_frame(new_number[given["panoptic"].numpy()], orientation)
    assert (rebuild(rows, *size) == expected).all()


def test_rows_that_share_pixels_are_no_panoptic_map() -> None:
    decoded = Decoded(np.zeros((20, 30, 3), np.uint8), 1, 20, 30)
    rows = predictions_table({7: from_panoptic(output(), decoded)}, LABELS).to_pylist()
    rows[3]["segmentation"] = rows[1]["segmentation"]
    with pytest.raises(DatasetError, match="rows 1 and 3 have pixels in common"):
        rebuild(rows, 20, 30)
    with pytest.raises(DatasetError, match=r"row 0 has a mask of the size \[20, 30\]: expected \[20, 31\]"):
        rebuild(rows[:1], 20, 31)


def test_no_segments() -> None:
    given = {name: part[:0] for name, part in output().items()} | {"panoptic": torch.zeros(4, 5, dtype=torch.int64)}
    found = from_panoptic(given, Decoded(np.zeros((4, 5, 3), np.uint8), 1, 4, 5))
    assert len(found.labels) == 0
    assert not rebuild([], 4, 5).any()


def test_scores_that_are_none_are_refused() -> None:
    given = output() | {"segment_scores": torch.full((5,), torch.nan)}
    with pytest.raises(FloatingPointError, match="scores that are not finite"):
        from_panoptic(given, Decoded(np.zeros((20, 30, 3), np.uint8), 1, 20, 30))


def test_stuff_is_what_has_regions_alone_or_is_named() -> None:
    kinds = [(4, "instance"), (4, "region"), (9, "region"), (9, "region"), (None, "region")]
    rows = pa.table({"category_id": pa.array([k for k, _ in kinds]), "kind": pa.array([k for _, k in kinds])})
    label_of = {4: 1, 9: 2}
    assert stuff_labels(None, rows, LABELS.names, label_of) == (2,)
    assert stuff_labels("", rows, LABELS.names, label_of) == ()
    assert stuff_labels("sky, disc", rows, LABELS.names, label_of) == (1, 2)
    with pytest.raises(ConfigError, match="there is no label 'skye'; expected sky"):
        stuff_labels("skye", rows, LABELS.names, label_of)


def test_masks_of_segments_are_exact() -> None:
    given = output()
    found = from_panoptic(given, Decoded(np.zeros((20, 30, 3), np.uint8), 1, 20, 30))
    assert masks.decode(found.rles[0]).astype(bool).tolist() == (given["panoptic"] == 2).tolist()
