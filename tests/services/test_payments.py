"""Payments: one charge, whatever is repeated; refunds to the cent."""

from collections.abc import Callable
from datetime import datetime

import pytest
from pytest_django import Settings

from headshots.exceptions import Refusal
from headshots.models import Order, Payment, PaymentEvent, Refund, Shot
from headshots.services import checkouts, fencing, orders, payments, purge
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from tests.paying import pay, tell_paid
from tests.payments.conftest import PAGES

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


@pytest.fixture
def premium(place: Callable[..., Placed]) -> Order:
    """A premium order, not yet assessed."""
    return place(tier_slug="premium").order


def finish_with(order: Order, delivered: int, now: datetime) -> None:
    """Close a paid order after `delivered` pictures."""
    Shot.objects.filter(order=order, index__lte=delivered).update(state=ShotState.DONE)
    Shot.objects.filter(order=order, index__gt=delivered).update(
        state=ShotState.FAILED, error_code="quality_gate"
    )
    Order.objects.filter(pk=order.pk).update(state=OrderState.RENDERING)
    orders.finish(order.pk, now)


def test_a_free_order_has_nothing_to_pay(placed: Placed, now: datetime) -> None:
    with pytest.raises(Refusal, match="not_payable"):
        pay(placed.order, now)

    assert not Payment.objects.exists()


def test_a_premium_order_starts_once_it_is_paid(premium: Order, now: datetime) -> None:
    orders.accept(premium, now)

    pay(Order.objects.get(), now)

    assert Order.objects.get().state == OrderState.QUEUED
    payment = Payment.objects.get()
    assert (payment.state, payment.amount_cents, payment.currency, payment.paid_at) == (
        "paid",
        1900,
        "usd",
        now,
    )


def test_a_payment_during_the_assessment_counts(premium: Order, now: datetime) -> None:
    pay(premium, now)
    assert Order.objects.get().state == OrderState.ASSESSING

    orders.accept(premium, now)

    assert Order.objects.get().state == OrderState.QUEUED


def test_the_same_event_twice_has_one_effect(premium: Order, now: datetime) -> None:
    reference = Payment.objects.get().reference

    assert tell_paid(reference, now, event_id="evt_1") == "taken"
    assert tell_paid(reference, now, event_id="evt_1") == "repeated"

    assert PaymentEvent.objects.count() == 1


def test_paying_twice_is_refused(premium: Order, now: datetime) -> None:
    pay(premium, now)

    with pytest.raises(Refusal, match="not_payable"):
        pay(Order.objects.get(), now)


def test_money_for_a_deleted_order_goes_back_and_starts_nothing(premium: Order, now: datetime) -> None:
    reference = Payment.objects.get().reference
    fencing.begin(premium, reason="customer", now=now)

    assert tell_paid(reference, now) == "taken"

    assert Order.objects.get().state == OrderState.PURGING
    assert Payment.objects.get().state == "paid"
    assert Refund.objects.get().amount_cents == 1900


def test_money_for_an_order_purged_after_a_restore_is_left_to_staff(premium: Order, now: datetime) -> None:
    reference = Payment.objects.get().reference
    fencing.begin(premium, reason="restored", now=now)

    assert tell_paid(reference, now) == "taken"

    assert not Refund.objects.exists()


def test_money_for_a_refused_photo_goes_back_at_once(premium: Order, now: datetime) -> None:
    orders.refuse(premium, "no_face", now)

    tell_paid(Payment.objects.get().reference, now)

    assert Refund.objects.get().amount_cents == 1900


def test_the_test_checkout_pays_once(premium: Order, now: datetime) -> None:
    orders.accept(premium, now)
    accepted = Order.objects.get()

    assert checkouts.hand_over(accepted, PAGES, now) == ""
    with pytest.raises(Refusal, match="not_payable"):
        checkouts.hand_over(accepted, PAGES, now)

    assert (Payment.objects.get().state, Order.objects.get().state) == ("paid", OrderState.QUEUED)


def test_a_test_payment_cannot_be_confirmed_once_real_money_is_taken(
    premium: Order, now: datetime, settings: Settings
) -> None:
    orders.accept(premium, now)
    settings.PAYMENTS = "stripe"

    with pytest.raises(Refusal, match="not_payable"):
        checkouts.hand_over(Order.objects.get(), PAGES, now)

    assert Payment.objects.get().state == "open"


@pytest.mark.parametrize(("delivered", "cents"), [(49, 38), (47, 114), (1, 1862), (0, 1900)])
def test_missing_pictures_are_refunded_to_the_cent(
    premium: Order, now: datetime, delivered: int, cents: int
) -> None:
    pay(premium, now)

    finish_with(premium, delivered, now)

    assert [refund.amount_cents for refund in Refund.objects.all()] == [cents]
    assert payments.refund_missing(premium, now) == 0


def test_a_complete_pack_refunds_nothing(premium: Order, now: datetime) -> None:
    pay(premium, now)

    finish_with(premium, 50, now)

    assert not Refund.objects.exists()


def test_a_refused_photo_gives_all_the_money_back(premium: Order, now: datetime) -> None:
    pay(premium, now)

    orders.refuse(premium, "no_face", now)

    assert Refund.objects.get().amount_cents == 1900


@pytest.mark.parametrize(("delivered", "cents"), [(0, 1900), (25, 950)])
def test_deleting_an_unfinished_order_refunds_what_was_not_delivered(
    premium: Order, now: datetime, delivered: int, cents: int
) -> None:
    pay(premium, now)
    Order.objects.update(state=OrderState.RENDERING)
    Shot.objects.filter(index__lte=delivered).update(state=ShotState.DONE)

    purge.request(premium, actor="customer", now=now)

    assert Refund.objects.get().amount_cents == cents


def test_deleting_a_delivered_order_refunds_nothing(premium: Order, now: datetime) -> None:
    pay(premium, now)
    finish_with(premium, 50, now)

    purge.request(premium, actor="customer", now=now)

    assert not Refund.objects.exists()


def test_refunded_shots_are_not_rendered_after_all(premium: Order, now: datetime) -> None:
    pay(premium, now)
    finish_with(premium, 48, now)

    assert orders.retry_failed(Order.objects.get(), actor="anna", now=now) == 0

    assert Shot.objects.filter(state=ShotState.FAILED).count() == 12  # two missing ones, and ten spares


def test_a_test_refund_is_with_its_customer_at_once(premium: Order, now: datetime) -> None:
    pay(premium, now)

    finish_with(premium, 49, now)

    refund = Refund.objects.get()
    assert (refund.state, refund.sent_at, refund.pictures) == ("sent", now, [50])


@pytest.mark.parametrize(
    ("delivered", "pictures", "cents"),
    [(50, [1], 38), (50, [1, 2, 3], 114), (50, None, 1900), (49, [1], 38), (49, None, 1862)],
)
def test_staff_refund_pictures_or_all_that_is_left(
    premium: Order, now: datetime, delivered: int, pictures: list[int] | None, cents: int
) -> None:
    pay(premium, now)
    finish_with(premium, delivered, now)

    assert payments.refund(premium, pictures=pictures, actor="anna", now=now) == cents

    newest = Refund.objects.latest("sequence")
    assert (newest.amount_cents, newest.reason) == (cents, "staff")


def test_one_picture_is_refunded_once(premium: Order, now: datetime) -> None:
    pay(premium, now)
    finish_with(premium, 49, now)
    payments.refund(premium, pictures=[1, 2], actor="anna", now=now)

    for again in ([1], [2], [50], [1, 50]):
        with pytest.raises(Refusal, match="not_refundable"):
            payments.refund(premium, pictures=again, actor="anna", now=now)

    assert sum(refund.amount_cents for refund in Refund.objects.all()) == 114


def test_picture_after_picture_gives_back_exactly_the_price(premium: Order, now: datetime) -> None:
    pay(premium, now)
    finish_with(premium, 47, now)

    for index in range(1, 48):
        payments.refund(premium, pictures=[index], actor="anna", now=now)

    assert sum(refund.amount_cents for refund in Refund.objects.all()) == 1900
    with pytest.raises(Refusal, match="not_refundable"):
        payments.refund(premium, actor="anna", now=now)


@pytest.mark.parametrize("index", [0, 51])
def test_a_picture_the_order_does_not_have_is_not_refunded(premium: Order, now: datetime, index: int) -> None:
    pay(premium, now)

    with pytest.raises(Refusal, match="headshot_not_found"):
        payments.refund(premium, pictures=[index], actor="anna", now=now)

    assert not Refund.objects.exists()


def test_an_unpaid_order_is_not_refunded(premium: Order, now: datetime) -> None:
    with pytest.raises(Refusal, match="not_refundable"):
        payments.refund(premium, actor="anna", now=now)

    assert not Refund.objects.exists()
