"""A bank wants the money back: nothing is delivered or refunded until that has ended for us."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from headshots.exceptions import NotFound, Refusal
from headshots.models import AuditEntry, Dispute, Order, Refund
from headshots.services import delivery, export, payments, purge, settlement
from headshots.states import OrderState
from headshots.vault.envelope import Kind
from tests.payments.conftest import finish_with
from tests.payments.stand_in import Failure, StandIn

pytestmark = pytest.mark.django_db
Deliver = Callable[..., str]


def refused(order: Order, now: datetime) -> list[str]:
    """The codes that reading a picture and the ZIP are refused with."""
    codes = []
    for read in (
        lambda: delivery.open_headshot(order, 1, Kind.HEADSHOT, now),
        lambda: delivery.stream_archive(order, now),
    ):
        with pytest.raises(Refusal) as error:
            read()
        codes.append(error.value.code)
    return codes


def test_a_dispute_freezes_the_delivery_until_it_is_won(
    premium: Order, intent: str, account: StandIn, now: datetime, deliver: Deliver
) -> None:
    assert deliver(account.dispute(intent)) == "noted"
    assert refused(premium, now) == ["payment_disputed"] * 2

    assert deliver(account.dispute(intent, "won")) == "noted"

    assert refused(premium, now) == ["headshot_not_found"] * 2  # the usual answer: none is finished
    assert Dispute.objects.get().state == "won"


@pytest.mark.parametrize(
    ("told", "differences"),
    [
        ({"amount": 1931}, ["dispute_amount"]),
        ({"amount": 1750, "currency": "eur"}, ["dispute_currency"]),
        ({"amount": 2_990_000, "currency": "krw"}, ["dispute_currency"]),
        ({"amount": 38}, []),  # a part of the charge
    ],
)
def test_a_dispute_freezes_and_stops_refunds_whatever_sum_the_bank_names(
    premium: Order,
    intent: str,
    account: StandIn,
    now: datetime,
    deliver: Deliver,
    told: dict[str, str | int],
    differences: list[str],
) -> None:
    """Banks count in their customer's currency, at their own rate."""
    finish_with(premium, 40, now)

    assert deliver(account.dispute(intent, **told)) == "noted"

    assert (Dispute.objects.get().state, Dispute.objects.get().amount_cents) == ("open", told["amount"])
    assert refused(premium, now) == ["payment_disputed"] * 2
    assert settlement.run(now).sent == 0
    entries = AuditEntry.objects.filter(event="payment.mismatch")
    assert [entry.detail["what"] for entry in entries] == differences
    assert AuditEntry.objects.get(event="payment.disputed").detail == {
        "state": "open",
        "amount": told["amount"],
        "currency": told.get("currency", "usd"),
    }


def test_a_dispute_of_another_sum_that_ends_says_its_difference_once(
    premium: Order, intent: str, account: StandIn, now: datetime, deliver: Deliver
) -> None:
    deliver(account.dispute(intent, amount=1931))

    assert deliver(account.dispute(intent, "won", amount=1931)) == "noted"

    assert not payments.is_frozen(premium)
    assert AuditEntry.objects.filter(event="payment.mismatch").count() == 1


def test_a_lost_dispute_stays_frozen_and_no_refund_is_sent_on_top(
    premium: Order, intent: str, account: StandIn, now: datetime, deliver: Deliver
) -> None:
    finish_with(premium, 40, now)
    deliver(account.dispute(intent))

    deliver(account.dispute(intent, "lost"))

    assert refused(premium, now) == ["payment_disputed"] * 2
    assert (Refund.objects.get().state, Refund.objects.get().error_code) == ("failed", "dispute_lost")


def test_what_is_owed_after_a_lost_dispute_is_not_sent_on_top(
    premium: Order, intent: str, account: StandIn, now: datetime, deliver: Deliver
) -> None:
    deliver(account.dispute(intent))
    deliver(account.dispute(intent, "lost"))
    finish_with(premium, 40, now)

    assert settlement.run(now).failed == 1

    assert (Refund.objects.get().state, Refund.objects.get().error_code) == ("failed", "dispute_lost")
    assert not account.refunds
    assert settlement.run(now + timedelta(days=1)).failed == 0


def test_an_end_that_overtakes_its_beginning_is_not_taken_back(
    premium: Order, intent: str, account: StandIn, deliver: Deliver
) -> None:
    created, closed = account.dispute(intent), account.dispute(intent, "won")

    assert [deliver(closed), deliver(created), deliver(closed)] == ["noted", "nothing_new", "repeated"]

    assert Dispute.objects.get().state == "won"
    assert not payments.is_frozen(premium)


def test_a_dispute_that_overtakes_its_payment_is_kept(
    session_id: str, premium: Order, account: StandIn, deliver: Deliver
) -> None:
    paid = account.pay(session_id)
    intent = next(iter(account.intents))

    assert deliver(account.dispute(intent)) == "noted"  # Stripe was asked whose charge it is
    assert deliver(paid) == "taken"

    assert payments.is_frozen(premium)


def test_a_dispute_is_asked_for_again_while_stripe_cannot_say_whose_it_is(
    session_id: str, account: StandIn, deliver: Deliver
) -> None:
    account.pay(session_id)
    account.failures.extend([Failure(status=500)] * 2)

    assert deliver(account.dispute(next(iter(account.intents)))) == "503 stripe_500"

    assert not Dispute.objects.exists()


def test_a_disputed_order_can_be_deleted(
    premium: Order, intent: str, account: StandIn, now: datetime, deliver: Deliver
) -> None:
    deliver(account.dispute(intent))

    purge.request(premium, actor="customer", now=now)

    assert Order.objects.get().state in (OrderState.PURGING, OrderState.PURGED)
    with pytest.raises(NotFound):
        list(export.stream(premium, now))
