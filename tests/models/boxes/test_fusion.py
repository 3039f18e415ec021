import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardlens.models.boxes.fusion import Found, weighted_box_fusion


def found(*rows: tuple[float, ...]) -> Found:
    """Rows of x1, y1, x2, y2, score, label."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Found(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def test_a_case_by_hand():
    one = found((0, 0, 10, 10, 0.9, 1), (50, 50, 60, 60, 0.5, 1))
    other = found((0, 0, 10, 8, 0.3, 1), (0, 0, 10, 10, 0.8, 2))
    fused = weighted_box_fusion([one, other], [1, 1])
    assert fused.labels.tolist() == [1, 2, 1]
    np.testing.assert_allclose(fused.boxes[0], [0, 0, 10, (0.9 * 10 + 0.3 * 8) / 1.2])
    np.testing.assert_allclose(fused.scores, [0.6, 0.4, 0.25])


def test_more_members_than_detectors_are_no_surer():
    fused = weighted_box_fusion([found(*[(0, 0, 10, 10, 0.6, 1)] * 3), found((0, 0, 10, 10, 0.6, 1))], [1, 1])
    np.testing.assert_allclose(fused.scores, [0.6])


def test_the_fused_box_moves_as_boxes_join_it():
    rows = [(x, 0, x + 10, 10, 0.5, 1) for x in (0.0, 2.0, 3.5)]
    assert len(weighted_box_fusion([found(*rows)], [1]).boxes) == 1  # the third meets the mean, not the first
    assert len(weighted_box_fusion([found(rows[0], rows[2])], [1]).boxes) == 2


def test_nothing_found():
    fused = weighted_box_fusion([found(), found()], [1, 1])
    assert (fused.boxes.shape, fused.scores.shape, fused.labels.shape) == ((0, 4), (0,), (0,))


def naive(rows: list[tuple[float, ...]], models: int, limit: float) -> list[tuple[float, ...]]:
    """The paper's steps with lists of members, one class, equal weights."""
    clusters: list[list[tuple[float, ...]]] = []
    for row in sorted(rows, key=lambda r: -r[4]):
        overlaps = [iou(mean(members), row) for members in clusters]
        if overlaps and max(overlaps) > limit:
            clusters[overlaps.index(max(overlaps))].append(row)
        else:
            clusters.append([row])
    fused = [
        (*mean(members), sum(r[4] for r in members) / len(members) * min(len(members), models) / models)
        for members in clusters
    ]
    return sorted(fused, key=lambda r: -r[4])


def mean(members: list[tuple[float, ...]]) -> list[float]:
    total = sum(r[4] for r in members)
    return [sum(r[4] * r[i] for r in members) / total for i in range(4)]


def iou(a, b) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(wide, 0) * max(high, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@given(st.integers(0, 10_000), st.integers(0, 25), st.integers(1, 4))
def test_it_is_the_paper_s_loop(seed: int, count: int, models: int):
    random = np.random.default_rng(seed)
    corner, scores = random.uniform(0, 20, (count, 2)), random.uniform(0.1, 1, count)
    boxes = np.concatenate([corner, corner + random.uniform(5, 15, (count, 2))], axis=1)
    rows = [(*box, score, 1) for box, score in zip(boxes.tolist(), scores.tolist(), strict=True)]
    fused = weighted_box_fusion([found(*rows[i::models]) for i in range(models)], [1] * models, 0.4)
    expected = naive(rows, models, 0.4)
    np.testing.assert_allclose(fused.scores, [r[4] for r in expected])
    np.testing.assert_allclose(fused.boxes, np.array([r[:4] for r in expected]).reshape(-1, 4), atol=1e-9)


def test_weights_for_each_detector():
    with pytest.raises(ValueError, match="zip"):
        weighted_box_fusion([found()], [1, 1])
