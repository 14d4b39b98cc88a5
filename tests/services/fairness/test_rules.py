"""Who goes first, how much is reserved and what one order may hold."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headshots.services import fair_queue
from headshots.tiers import TIERS
from tests.services.fairness.queue import FREE, NOON, PREMIUM, SECOND, Queue, tiers_of


def test_a_free_order_goes_before_what_is_left_of_a_pack() -> None:
    queue = Queue()
    queue.enter("premium")
    queue.take(20)
    queue.in_flight.clear()

    queue.enter("free")

    assert tiers_of(queue.take(6)) == "ffpfpp"


def test_orders_of_one_tier_go_one_after_the_other() -> None:
    queue = Queue()
    first, second = queue.enter("premium", 4), queue.enter("premium", 4)

    assert [each.order for each in queue.take(8)] == [first] * 4 + [second] * 4


def test_a_tier_that_was_idle_has_saved_nothing_up() -> None:
    queue = Queue()
    for _ in range(20):
        queue.enter("premium")
    queue.take(900)
    queue.in_flight.clear()

    for _ in range(20):
        queue.enter("free")

    assert Counter(tiers_of(queue.take(30))) == {"f": 20, "p": 10}


@pytest.mark.parametrize(("slots", "reserved"), [(1, 1), (2, 1), (4, 2), (8, 3), (16, 6)])
def test_a_pack_fills_every_slot_and_leaves_the_reserved_places_free(slots: int, reserved: int) -> None:
    queue = Queue()
    queue.enter("premium")
    assert fair_queue.reserved_places(slots) == reserved

    assert len(queue.take(slots + reserved, slots)) == slots
    assert queue.take(reserved, slots) == []
    queue.enter("free")
    assert tiers_of(queue.take(reserved, slots)) == "f" * min(reserved, 3)


def test_free_orders_may_take_every_place_when_nobody_else_waits() -> None:
    queue = Queue()
    for _ in range(4):
        queue.enter("free")

    assert tiers_of(queue.take(11, 8)) == "f" * 11


def test_an_order_past_its_patience_goes_first_but_not_into_the_reserve() -> None:
    queue = Queue()
    queue.enter("premium")
    queue.now += PREMIUM.patience_seconds * SECOND
    queue.enter("free")

    assert tiers_of(queue.take(11, 8)) == "p" * 8 + "f" * 3


def test_of_two_late_orders_the_one_that_is_later_goes_first() -> None:
    queue = Queue()
    queue.enter("free", 1)
    queue.now += (PREMIUM.patience_seconds - FREE.patience_seconds + 1) * -SECOND
    queue.enter("premium", 1)
    queue.now = NOON + 1000 * SECOND

    assert tiers_of(queue.take(2)) == "pf"


def test_no_order_holds_more_than_its_cap_while_another_waits() -> None:
    queue = Queue()
    first, second = queue.enter("premium"), queue.enter("premium")

    chosen = Counter(each.order for each in queue.take(PREMIUM.in_flight_cap + 10))

    assert chosen == {first: PREMIUM.in_flight_cap, second: 10}


def test_an_order_alone_may_hold_everything() -> None:
    queue = Queue()
    queue.enter("premium")

    assert len(queue.take(40)) == 40


def test_the_clock_waits_for_the_shots_that_a_cap_holds_back() -> None:
    queue = Queue()
    queue.enter("premium")
    queue.enter("premium")
    queue.take(PREMIUM.in_flight_cap + 10)

    held_back = queue.lanes["premium"][0]
    assert held_back.virtual_finish == (PREMIUM.in_flight_cap + 1) * 60_000
    assert queue.clock == held_back.virtual_start


def test_the_work_of_a_shot_is_its_steps_its_decoding_and_its_enlarging() -> None:
    assert fair_queue.work_of(30, FREE.long_edge) == 61
    assert fair_queue.work_of(50, PREMIUM.long_edge) == 105


entries = st.lists(
    st.tuples(st.sampled_from(sorted(TIERS)), st.integers(1, 50), st.integers(21, 105)),
    min_size=1,
    max_size=12,
)
slot_counts = st.sampled_from((1, 2, 4, 8, 16))


@settings(max_examples=25, deadline=None)
@given(first=entries, second=entries, slots=slot_counts)
def test_no_order_starves(
    first: list[tuple[str, int, int]], second: list[tuple[str, int, int]], slots: int
) -> None:
    """Everything there is gets made, while newcomers of the other tier arrive without end."""
    queue = Queue()
    places = slots + fair_queue.reserved_places(slots)
    wanted = {queue.enter(*entry) for entry in first}
    rounds = 0
    while any(each.order in wanted for lane in queue.lanes.values() for each in lane):
        queue.take(places, slots)
        queue.in_flight.clear()
        queue.now += 5 * SECOND
        tier, count, work = second[rounds % len(second)]
        queue.enter(tier, min(count, slots), work)
        rounds += 1
        assert rounds < 2000
    assert rounds * slots < 20 * sum(count for _, count, _ in first) + 200 * slots


@settings(max_examples=60, deadline=None)
@given(works=st.tuples(st.integers(21, 105), st.integers(21, 105)), taken=st.integers(20, 200))
def test_work_is_shared_by_weight_while_both_tiers_wait(works: tuple[int, int], taken: int) -> None:
    queue = Queue()
    for _ in range(80):
        queue.enter("free", 3, works[0])
        queue.enter("premium", 3, works[1])

    done = Counter({"free": 0, "premium": 0})
    for each in queue.take(taken):
        done[each.tier] += each.work

    # Start-time fair queueing's bound: never apart by more than one shot of each flow.
    lead = done["free"] / FREE.weight - done["premium"] / PREMIUM.weight
    assert abs(lead) <= works[0] / FREE.weight + works[1] / PREMIUM.weight


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 50), min_size=2, max_size=6), limit=st.integers(1, 120))
def test_the_cap_holds_whenever_somebody_else_could_go(sizes: list[int], limit: int) -> None:
    queue = Queue()
    for size in sizes:
        queue.enter("premium", size)
    queue.take(limit)

    held = Counter(each.order for each in queue.in_flight)
    left = Counter(each.order for each in queue.lanes["premium"])
    for order, count in held.items():
        others = [o for o in left if o != order and held[o] < PREMIUM.in_flight_cap]
        assert count <= PREMIUM.in_flight_cap or not others


@settings(max_examples=60, deadline=None)
@given(entered=entries, slots=slot_counts, rounds=st.integers(1, 20))
def test_places_stay_free_only_for_a_tier_that_has_nothing_waiting(
    entered: list[tuple[str, int, int]], slots: int, rounds: int
) -> None:
    queue = Queue()
    for entry in entered:
        queue.enter(*entry)
    for _ in range(rounds):
        free = slots + fair_queue.reserved_places(slots) - len(queue.in_flight)
        chosen = queue.take(free, slots)
        idle = free - len(chosen)
        assert idle == 0 or not queue.lanes["free"]
        assert idle <= fair_queue.reserve(FREE.reserved_share, slots) or not queue.lanes["premium"]
        queue.in_flight = queue.in_flight[slots // 2 + 1 :]
