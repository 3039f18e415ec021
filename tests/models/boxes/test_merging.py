import torch

from shardlens.models.boxes.merging import greedy_merge, match_costs


def test_costs_by_hand():
    costs = match_costs(torch.tensor([[0.0, 0, 3, 4], [0.0, 0, 3, 4], [3.0, 4, 6, 8]]))
    assert costs[0, 1] == 0
    torch.testing.assert_close(costs[0, 2], torch.tensor(2.0))  # one diagonal apart, nothing shared
    assert costs.diagonal().isinf().all()


def test_boxes_of_one_object_are_averaged_and_their_confidences_added():
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [2, 0, 12, 10]])
    merged, sums = greedy_merge(boxes, torch.tensor([0.4, 0.9, 0.7]), 0.8)
    assert merged.tolist() == [[1, 0, 11, 10], [50, 50, 60, 60]]
    torch.testing.assert_close(sums, torch.tensor([1.1, 0.9]))


def test_the_best_match_goes_first():
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [5, 0, 15, 10]])
    merged, _ = greedy_merge(boxes, torch.ones(3), 0.3)
    assert sorted(merged.tolist()) == [[0, 0, 10, 10], [4.5, 0, 14.5, 10]]


def test_it_is_the_loop_over_pairs():
    corner = torch.rand(25, 2, generator=torch.Generator().manual_seed(0)) * 30
    boxes, scores = torch.cat([corner, corner + 12], dim=1), torch.linspace(0.1, 0.9, 25)
    left = [(box, score) for box, score in zip(boxes, scores, strict=True)]
    while True:
        costs = match_costs(torch.stack([box for box, _ in left]))
        if costs.min() >= 0.7:
            break
        a, b = divmod(int(costs.argmin()), len(left))
        joined = (left[a][0] + left[b][0]) / 2, left[a][1] + left[b][1]
        left = [pair for i, pair in enumerate(left) if i not in (a, b)] + [joined]
    merged, sums = greedy_merge(boxes, scores, 0.7)
    assert 1 < len(merged) < 25
    torch.testing.assert_close(sums, torch.stack([s for _, s in left]).sort(descending=True).values)
    torch.testing.assert_close(merged.sum(0), torch.stack([box for box, _ in left]).sum(0))


def test_nothing_to_merge():
    merged, sums = greedy_merge(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert (merged.shape, sums.shape) == ((0, 4), (0,))
