"""Estimates: what they are made of, when nothing is said, and what is refused for coming too late."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from headshots.exceptions import Refusal
from headshots.models import Order, Payment, QueueMark, Shot
from headshots.services import checkouts, claiming, estimates, orders, payments, uploads
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from headshots.tiers import TIERS
from tests.payments.conftest import PAGES

pytestmark = pytest.mark.django_db
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
FREE, PREMIUM = TIERS["free"], TIERS["premium"]


@pytest.fixture(autouse=True)
def unlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are taken as they are: the process that cleans them has tests of its own, and takes its time."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


@pytest.fixture
def history(place: Callable[..., Placed], now: datetime) -> Callable[..., None]:
    """Six shots of 60 rows, made in pairs of ten seconds each: 12 rows a second; the last ended `ago`."""

    def make(ago: timedelta = SECOND, seconds: float = 10.0) -> None:
        for pair in range(2):
            order = place().order
            Order.objects.filter(pk=order.pk).update(state=OrderState.READY)
            for index in (1, 2, 3):
                place_in_time = (3 * pair + index - 1) // 2  # 0, 0, 1, 1, 2, 2
                Shot.objects.filter(order=order, index=index).update(
                    state=ShotState.DONE,
                    work=60,
                    render_seconds=seconds,
                    finished_at=now - ago - (2 - place_in_time) * seconds * SECOND,
                )

    return make


@pytest.fixture
def start(place: Callable[..., Placed], now: datetime) -> Callable[..., Order]:
    """Places an order of a tier, all of whose shots are 60 rows, and lets it enter the queue."""

    def start_one(tier: str = "free") -> Order:
        order = place(tier_slug=tier).order
        step = 60_000 // TIERS[tier].weight
        for shot in order.shots.all():
            Shot.objects.filter(pk=shot.pk).update(work=60, virtual_offset=step * shot.index)
        orders.accept(order, now)
        Payment.objects.filter(order=order).update(state=Payment.State.PAID)
        payments.start_if_paid(order, now)
        return Order.objects.get(pk=order.pk)

    return start_one


def seconds_of(order: Order, now: datetime) -> tuple[float, float] | None:
    estimate = estimates.of_order(Order.objects.get(pk=order.pk), now)
    return estimate and (estimate.start_seconds, estimate.ready_seconds)


def test_the_speed_is_work_over_the_time_in_which_anything_was_made(
    history: Callable[..., None], now: datetime
) -> None:
    history()

    measured = estimates.speed(now)

    assert measured == estimates.Speed(work_per_second=12.0, shot_seconds={"free": 10.0})


def test_time_in_which_nobody_worked_does_not_count(history: Callable[..., None], now: datetime) -> None:
    history()
    history(ago=10 * MINUTE)

    measured = estimates.speed(now)

    assert measured is not None
    assert measured.work_per_second == pytest.approx(12.0)


def test_nothing_is_said_before_three_pictures_were_made_lately(
    history: Callable[..., None], start: Callable[..., Order], now: datetime
) -> None:
    order = start()
    assert seconds_of(order, now) is None

    history(ago=31 * MINUTE)
    assert seconds_of(order, now) is None

    history()
    older = Shot.objects.filter(state=ShotState.DONE, finished_at__lt=now - 2 * SECOND)
    older.update(finished_at=now - 40 * MINUTE)
    assert seconds_of(order, now) is None


def test_nothing_is_said_while_shots_wait_and_nobody_works(
    history: Callable[..., None], start: Callable[..., Order], now: datetime
) -> None:
    history(ago=4 * MINUTE)
    order = start()
    assert seconds_of(order, now) == (0, 15)

    Shot.objects.filter(order=order).update(not_before=now - 4 * MINUTE)
    assert seconds_of(order, now) is None

    claiming.claim("worker", 1, now)
    assert estimates.live_workers(now) == 1
    assert seconds_of(order, now) is not None


def test_an_order_alone_starts_now_and_is_ready_after_its_own_work(
    history: Callable[..., None], start: Callable[..., Order], now: datetime
) -> None:
    history()

    assert seconds_of(start(), now) == (0, 15)


def test_a_single_shot_takes_at_least_what_a_shot_takes(
    history: Callable[..., None], start: Callable[..., Order], now: datetime
) -> None:
    history()
    order = start()
    order.shots.filter(index__gt=1).update(state=ShotState.DONE, finished_at=now - 40 * MINUTE)

    assert seconds_of(order, now) == (0, 10)


def test_what_is_ahead_counts_in_the_fair_order(
    history: Callable[..., None], start: Callable[..., Order], now: datetime
) -> None:
    history()
    pack, first, second = start("premium"), start(), start()

    # Free shots end at 30, 60, ... 180, premium ones and their spares at 60, 120, ... 3600 thousand.
    assert seconds_of(first, now) == (0, (3 + 1) * 5)
    assert seconds_of(second, now) == ((3 + 1) * 5, (6 + 3) * 5)
    assert seconds_of(pack, now) == (1 * 5, (60 + 6) * 5)


def test_shots_in_flight_count_half(
    history: Callable[..., None], start: Callable[..., Order], now: datetime
) -> None:
    history()
    running, waiting = start(), start()
    claiming.claim("worker", 2, now)

    assert seconds_of(running, now) == (0, 5 + 2 * 5 / 2)
    assert seconds_of(waiting, now) == (5 + 2 * 5 / 2, 4 * 5 + 2 * 5 / 2)


def test_an_order_that_does_not_wait_or_render_has_no_estimate(
    history: Callable[..., None], placed: Placed, now: datetime
) -> None:
    history()

    for state in set(OrderState) - {OrderState.QUEUED, OrderState.RENDERING}:
        placed.order.state = state
        assert estimates.of_order(placed.order, now) is None


# --- what comes too late ----------------------------------------------------------------------------------


def test_a_free_order_that_would_wait_too_long_is_not_taken(
    history: Callable[..., None], start: Callable[..., Order], place: Callable[..., Placed], now: datetime
) -> None:
    history(seconds=100.0)  # 1.2 rows a second: a free pack takes 150 s
    for _ in range(3):
        start()
    before = (Order.objects.count(), Shot.objects.count())

    with pytest.raises(Refusal) as refused:
        place()

    assert refused.value.code == "queue_full"
    assert (Order.objects.count(), Shot.objects.count()) == before


def test_a_free_order_that_fits_is_taken(
    history: Callable[..., None], start: Callable[..., Order], place: Callable[..., Placed], now: datetime
) -> None:
    history(seconds=100.0)
    for _ in range(2):
        start()

    place()

    assert Order.objects.filter(state=OrderState.ASSESSING).count() == 1


def test_while_the_speed_is_unknown_the_longest_wait_decides(
    start: Callable[..., Order], place: Callable[..., Placed], now: datetime
) -> None:
    assert FREE.longest_wait_seconds == 600
    Shot.objects.filter(order=start()).update(not_before=now - 9 * MINUTE)
    place()
    Shot.objects.filter(virtual_finish__isnull=False).update(not_before=now - 11 * MINUTE)

    with pytest.raises(Refusal, match="queue_full"):
        place()
    place(tier_slug="premium")


def test_a_pack_that_would_come_too_late_is_refused_before_it_is_paid(
    history: Callable[..., None], start: Callable[..., Order], place: Callable[..., Placed], now: datetime
) -> None:
    waiting = place(tier_slug="premium").order
    orders.accept(waiting, now)
    history(seconds=100.0)
    QueueMark.objects.update_or_create(name="premium", defaults={"virtual_time": 10**9})
    Shot.objects.filter(order=start()).update(work=10**6)  # nine days

    with pytest.raises(Refusal, match="queue_full"):
        place(tier_slug="premium")
    with pytest.raises(Refusal, match="queue_full"):
        checkouts.hand_over(Order.objects.get(pk=waiting.pk), PAGES, now)

    assert Payment.objects.get(order=waiting).state == Payment.State.OPEN
    assert Order.objects.get(pk=waiting.pk).state == OrderState.AWAITING_PAYMENT


def test_the_last_half_hour_is_not_sold(placed: Placed, history: Callable[..., None], now: datetime) -> None:
    history()
    seconds = PREMIUM.headshots * 65 / 12

    estimates.require_room(PREMIUM, now + 30 * MINUTE + (seconds + 60) * SECOND, now)
    with pytest.raises(Refusal, match="queue_full"):
        estimates.require_room(PREMIUM, now + 30 * MINUTE + (seconds - 60) * SECOND, now)
