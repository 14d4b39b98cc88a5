"""What is missing is paid back: at the deadline, whatever was downloaded, and to the cent."""

from collections.abc import Callable
from datetime import datetime

import pytest
from django.utils import timezone

from headshots.exceptions import Refusal
from headshots.models import Order, Payment, Refund, Shot
from headshots.services import claiming, delivery, guarantee, orders, payments, shots
from headshots.states import OrderState, ShotState
from headshots.vault.envelope import Kind
from tests.services.guarantee.conftest import JudgedEngine, archive_of, finished, judged, states

# --- the deadline -------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_at_its_deadline_an_order_gets_what_is_there_and_the_rest_back(
    pack_order: Order, now: datetime
) -> None:
    """Twelve pictures are made, seven of them certain; then every worker dies."""
    for number, claimed in enumerate(claiming.claim("worker", 12, now)):
        report = judged(0.7 if number < 7 else 0.55)
        shots.commit(claimed, finished(str(claimed.shot.pk), claimed.seeds[0], report), now)
    claiming.claim("worker", 3, now)
    before = states()
    deadline = pack_order.expires_at - guarantee.DEADLINE

    shots.sweep(deadline)

    assert before["kept"] > 0
    order = Order.objects.get()
    assert order.state == OrderState.READY
    assert states() == {"done": 12, "failed": 48}
    assert Refund.objects.get().amount_cents == 1444  # 38 of 50 at 38 cents
    assert set(Shot.objects.filter(state=ShotState.FAILED).values_list("error_code", flat=True)) == {
        "deadline"
    }
    assert orders.retry_failed(order, actor="anna", now=deadline) == 0


@pytest.mark.django_db
def test_an_order_that_nobody_began_is_paid_back_at_its_deadline(pack_order: Order) -> None:
    shots.sweep(pack_order.expires_at - guarantee.DEADLINE)

    assert Order.objects.get().state == OrderState.FAILED
    assert Refund.objects.get().amount_cents == 1900
    assert claiming.claim("worker", 1, pack_order.expires_at - guarantee.DEADLINE) == []


# --- money --------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_downloading_voids_nothing(
    pack_order: Order, rendered_by: Callable[[JudgedEngine], JudgedEngine], now: datetime
) -> None:
    """All that came is downloaded before the end; what is missing comes back all the same, and more."""
    claimed = claiming.claim("worker", 1, now)[0]
    shots.commit(claimed, finished(str(claimed.shot.pk), claimed.seeds[0], judged(0.7)), now)
    delivery.open_headshot(pack_order, claimed.shot.index, Kind.HEADSHOT, now)
    assert len(archive_of(pack_order).namelist()) == 2

    rendered_by(JudgedEngine(0.7))
    order = Order.objects.get()
    delivered = Shot.objects.filter(state=ShotState.DONE).count()
    archive_of(order)

    assert delivered == 40
    assert Refund.objects.get().amount_cents == (50 - delivered) * 38
    assert payments.refund(order, pictures=[claimed.shot.index], actor="anna", now=timezone.now()) == 38
    assert payments.refund(order, actor="anna", now=timezone.now()) == 39 * 38


@pytest.mark.django_db
def test_a_delivered_spare_has_its_price_and_the_shot_it_stands_in_for_has_none(
    pack_order: Order, now: datetime
) -> None:
    Order.objects.update(state=OrderState.RENDERING)
    Shot.objects.filter(index__in=(7, 8)).update(state=ShotState.FAILED, error_code="quality_gate")
    Shot.objects.filter(index__gt=51).update(state=ShotState.FAILED, error_code="quality_gate")
    Shot.objects.exclude(state=ShotState.FAILED).update(state=ShotState.DONE)

    orders.finish(pack_order.pk, now)  # 49 pictures, one of them the spare 51

    assert [(refund.amount_cents, refund.pictures) for refund in Refund.objects.all()] == [(38, [7])]
    with pytest.raises(Refusal, match="headshot_not_found"):
        payments.refund(pack_order, pictures=[8], actor="anna", now=now)
    assert payments.refund(pack_order, pictures=[51], actor="anna", now=now) == 38
    assert payments.refund(pack_order, actor="anna", now=now) == 1900 - 2 * 38


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("promised", "price", "parts"),
    [(3, 1000, [334, 333, 333]), (7, 1000, [143, 143, 143, 143, 143, 143, 142]), (50, 1900, [38] * 50)],
)
def test_parts_are_rounded_for_the_customer_and_never_sum_to_more_than_the_price(
    pack_order: Order, now: datetime, promised: int, price: int, parts: list[int]
) -> None:
    Order.objects.update(state=OrderState.READY, headshots=promised)
    Payment.objects.update(amount_cents=price)
    Shot.objects.filter(index__lte=promised).update(state=ShotState.DONE)
    Shot.objects.filter(index__gt=promised).update(state=ShotState.SURPLUS)
    order = Order.objects.get()

    given = [
        payments.refund(order, pictures=[index], actor="anna", now=now) for index in range(1, promised + 1)
    ]

    assert given == parts
    assert sum(given) == price
    with pytest.raises(Refusal, match="not_refundable"):
        payments.refund(order, actor="anna", now=now)
