"""Who takes which item next, and who is blamed; workers are letters here."""

from __future__ import annotations

from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from shardlens.pipeline.executors.leases import Lease, Leases


def deal(leases: Leases[str, int], coming: int = 0) -> list[tuple[str, Lease[int]]]:
    """Deal all that can be dealt now."""
    return list(iter(lambda: leases.next(coming), None))


def names(dealt: list[tuple[str, Lease[int]]]) -> list[tuple[str, int]]:
    return [(worker, lease.item) for worker, lease in dealt]


def pool(items: int, workers: str, attempts: int = 3, ahead: int = 2) -> Leases[str, int]:
    leases: Leases[str, int] = Leases(range(items), attempts, ahead)
    for worker in workers:
        leases.join(worker)
    return leases


def test_everybody_gets_one_before_anybody_gets_two() -> None:
    assert names(deal(pool(9, "ab"))) == [("a", 0), ("b", 1), ("a", 2), ("b", 3)]


def test_a_worker_that_gives_back_gets_the_next() -> None:
    leases = pool(9, "ab")
    first, *_ = deal(leases)
    leases.done(*first)
    assert names(deal(leases)) == [("a", 4)]


def test_the_last_items_are_kept_for_workers_that_come() -> None:
    leases = pool(2, "a")
    assert names(deal(leases, coming=1)) == [("a", 0)]
    leases.join("b")
    assert names(deal(leases)) == [("b", 1)]


def test_a_worker_alone_does_not_wait_for_others() -> None:
    leases = pool(2, "a")
    [first] = deal(leases, coming=5)
    leases.done(*first)
    assert names(deal(leases, coming=5)) == [("a", 1)]


def test_suspects_are_tried_alone() -> None:
    leases = pool(6, "ab")
    held = deal(leases)
    lost = [leases.died(worker, lease) for worker, lease in held if worker == "a"]
    assert lost == [False, False]
    assert (leases.holds("a"), leases.holds("b")) == (0, 2)
    assert deal(leases) == []  # b has two, and no third that would keep it busy for ever
    for worker, lease in held:
        if worker == "b":
            leases.done(worker, lease)
    assert names(deal(leases)) == [("b", 0)]
    leases.join("c")
    assert names(deal(leases)) == [("c", 2)]
    leases.join("d")
    assert names(deal(leases)) == [("d", 4), ("d", 5)]


def test_the_last_attempt_is_the_item_s_fault() -> None:
    leases = pool(1, "abc")
    for worker, last in (("a", False), ("b", False), ("c", True)):
        [(taker, lease)] = deal(leases)
        assert (taker, leases.died(taker, lease)) == (worker, last)
    assert lease.attempts == 3
    assert leases.waiting() == 0


def test_one_attempt_is_made_alone() -> None:
    leases = pool(3, "a", attempts=1)
    [first] = deal(leases)
    assert leases.died(*first)


def test_items_are_read_ahead_but_not_further() -> None:
    source = count()
    leases: Leases[str, int] = Leases(source, 3, 4)
    assert leases.waiting() == 4
    assert next(source) == 4


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_only_the_guilty_are_lost(data: st.DataObject) -> None:
    """Whatever the order of events: innocents are done after two attempts at most, the guilty lost after `attempts`."""
    size, attempts = data.draw(st.integers(0, 12)), data.draw(st.integers(1, 4))
    guilty = data.draw(st.sets(st.integers(0, max(size - 1, 0)), max_size=3))
    leases: Leases[int, int] = Leases(range(size), attempts, 3)
    fresh = count()
    held: list[tuple[int, Lease[int]]] = []
    ended: dict[int, tuple[bool, int]] = {}
    while leases.waiting() or held:
        alive = {worker for worker, _ in held}
        if len(alive) < 3 and leases.waiting():
            leases.join(next(fresh))
        while dealt := leases.next(data.draw(st.integers(0, 2))):
            held.append(dealt)
        if not held:
            continue
        worker, lease = data.draw(st.sampled_from(held))
        mine = [pair for pair in held if pair[0] == worker]
        assert len(mine) <= 2
        if lease.item in guilty:
            held = [pair for pair in held if pair[0] != worker]
            ended |= {fallen.item: (False, fallen.attempts) for _, fallen in mine if leases.died(worker, fallen)}
        else:
            held.remove((worker, lease))
            leases.done(worker, lease)
            ended[lease.item] = (True, lease.attempts)
    assert set(ended) == set(range(size))
    assert {item for item, (done, _) in ended.items() if not done} == guilty & set(range(size))
    assert all(tries == attempts for done, tries in ended.values() if not done)
    assert all(tries <= min(2, attempts) for done, tries in ended.values() if done)
