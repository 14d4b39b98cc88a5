"""The same rules in the rows: places, retries, lost workers, newcomers."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise

import pytest

from headshots.models import Order, QueueMark, Shot
from headshots.services import claiming, fair_queue, orders, queue_clock, shots
from headshots.services.orders import Placed
from headshots.states import ShotState
from pipelines.types import FailedShot
from tests.services.fairness.queue import FREE, PREMIUM, SECOND


def places_of(order: Order) -> list[int | None]:
    return list(order.shots.order_by("index").values_list("virtual_finish", flat=True))


def failure(claimed: claiming.Claim) -> FailedShot:
    return FailedShot(shot_id=str(claimed.shot.pk), code="engine_error", is_retryable=True)


@pytest.mark.django_db
def test_an_order_has_no_place_before_it_starts(placed: Placed, now: datetime) -> None:
    assert places_of(placed.order) == [None] * 3
    assert claiming.claim("worker", 3, now) == []

    orders.accept(placed.order, now)

    work = placed.order.shots.get(index=1).work
    step = fair_queue.virtual_length(work, FREE)
    assert places_of(placed.order) == [step, 2 * step, 3 * step]


@pytest.mark.django_db
def test_the_next_order_of_a_tier_begins_where_the_last_one_ends(
    start: Callable[..., Order], now: datetime
) -> None:
    first, second = start("free"), start("free")

    ends = places_of(first)[-1]
    assert ends is not None
    assert places_of(second) == [ends + place for place in places_of(first) if place is not None]
    assert queue_clock.read("free") == places_of(second)[-1]


@pytest.mark.django_db
def test_a_claim_moves_the_clock_to_the_start_of_what_it_took(
    start: Callable[..., Order], now: datetime
) -> None:
    pack = start("premium")
    claiming.claim("worker", 5, now)

    # The start of the fifth: the rows behind those that were taken were not looked at.
    assert queue_clock.read(queue_clock.CLOCK) == places_of(pack)[3]
    queue_clock.advance(1)
    assert queue_clock.read(queue_clock.CLOCK) == places_of(pack)[3]


@pytest.mark.django_db
def test_a_free_order_placed_while_a_pack_runs_boards_at_once(
    start: Callable[..., Order], now: datetime
) -> None:
    start("premium")
    assert len(claiming.claim("worker", 11, now, slots=8)) == 8

    free = start("free")

    assert [c.shot.order_id for c in claiming.claim("worker", 3, now, slots=8)] == [free.pk] * 3
    assert claiming.claim("another", 11, now, slots=8)[0].shot.order_id != free.pk


@pytest.mark.django_db
def test_the_reserve_counts_what_this_worker_holds(start: Callable[..., Order], now: datetime) -> None:
    start("free")
    start("premium")

    assert len(claiming.claim("one", 11, now, slots=8)) == 11  # three free ones fill the reserve
    assert len(claiming.claim("two", 11, now, slots=8)) == 8


@pytest.mark.django_db
def test_a_retry_keeps_its_place(start: Callable[..., Order], now: datetime) -> None:
    first, second = start("free"), start("free")
    before = places_of(first)
    claimed = claiming.claim("worker", 1, now)[0]

    shots.fail(claimed, failure(claimed), now)

    assert places_of(first) == before
    later = claiming.claim("worker", 6, now + 6 * SECOND)
    assert [(c.shot.order_id, c.shot.index) for c in later] == [
        *((first.pk, index) for index in (1, 2, 3)),
        *((second.pk, index) for index in (1, 2, 3)),
    ]


@pytest.mark.django_db
def test_shots_of_a_lost_worker_and_of_one_that_stops_keep_their_places(
    start: Callable[..., Order], now: datetime
) -> None:
    order = start("free")
    before = places_of(order)
    claiming.claim("stops", 3, now)
    claiming.release("stops")
    claiming.claim("is lost", 3, now)

    assert len(claiming.claim("worker", 3, now + 61 * SECOND)) == 3
    assert places_of(order) == before


@pytest.mark.django_db
def test_the_cap_holds_in_the_rows_and_falls_when_nobody_else_waits(
    start: Callable[..., Order], now: datetime
) -> None:
    first, second = start("premium"), start("premium")

    claimed = Counter(
        c.shot.order_id for worker in range(4) for c in claiming.claim(f"worker-{worker}", 8, now)
    )

    assert claimed == {first.pk: 24, second.pk: 8}
    Shot.objects.filter(order=second).update(state=ShotState.DONE)
    assert {c.shot.order_id for c in claiming.claim("worker-4", 8, now)} == {first.pk}


@pytest.mark.django_db
def test_a_pack_past_its_patience_goes_before_newcomers(start: Callable[..., Order], now: datetime) -> None:
    pack = start("premium")
    later = now + PREMIUM.patience_seconds * SECOND
    start("free", later)

    assert {c.shot.order_id for c in claiming.claim("worker", 3, later)} == {pack.pk}


@pytest.mark.django_db
def test_waiting_begins_with_the_payment_not_with_the_photo(
    start: Callable[..., Order], now: datetime
) -> None:
    pack = start("premium", now + 3600 * SECOND)

    assert set(pack.shots.values_list("not_before", flat=True)) == {now + 3600 * SECOND}


@pytest.mark.django_db
def test_the_shots_of_one_order_come_side_by_side(start: Callable[..., Order], now: datetime) -> None:
    start("premium")
    start("free")

    claimed = [c.shot.order_id for c in claiming.claim("worker", 6, now)]

    assert [one != after for one, after in pairwise(claimed)].count(True) == 1


@pytest.mark.django_db
def test_the_marks_come_back_when_their_rows_are_lost(start: Callable[..., Order], now: datetime) -> None:
    start("free")
    QueueMark.objects.all().delete()

    assert [c.shot.index for c in claiming.claim("worker", 3, now)] == [1, 2, 3]
    assert queue_clock.read(queue_clock.CLOCK) == 0
