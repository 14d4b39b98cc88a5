"""The way to Stripe: one page at a time, with our numbers and nothing about the person."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal

import pytest

from headshots.exceptions import NotFound, Refusal
from headshots.models import AuditEntry, Order, Payment, Refund
from headshots.payments.stripe_checkout import StripeCheckout
from headshots.payments.types import Bill, Checkout, ProviderBroke
from headshots.services import checkouts, fencing, purge, settlement
from headshots.services.orders import Placed
from headshots.states import OrderState
from tests.payments.conftest import PAGES
from tests.payments.stand_in import Failure, StandIn

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
SESSIONS = "/v1/checkout/sessions"


def test_stripe_is_told_an_amount_and_ids_and_nothing_else(
    premium: Order, account: StandIn, now: datetime
) -> None:
    checkouts.hand_over(premium, PAGES, now)

    payment = Payment.objects.get()
    (asked,) = account.posts(SESSIONS)
    expires_at = int((now + checkouts.PAGE_LIFE).timestamp())
    assert asked.key == f"hs-checkout-{payment.reference}-1"
    assert asked.values == {
        "mode": "payment",
        "allowed_payment_method_types[0]": "card",
        "adaptive_pricing[enabled]": "false",
        "client_reference_id": payment.reference,
        "metadata[payment]": payment.reference,
        "payment_intent_data[metadata][payment]": payment.reference,
        "line_items[0][quantity]": "1",
        "line_items[0][price_data][currency]": "usd",
        "line_items[0][price_data][unit_amount]": "1900",
        "line_items[0][price_data][product_data][name]": "Premium pack, 50 headshots",
        "expires_at": str(expires_at),
        "success_url": PAGES.success_url,
        "cancel_url": PAGES.cancel_url,
    }
    assert premium.receipt_id not in json.dumps(asked.values)


def test_the_customer_is_sent_to_the_page_of_the_session(
    premium: Order, account: StandIn, now: datetime
) -> None:
    url = checkouts.hand_over(premium, PAGES, now)

    payment = Payment.objects.get()
    assert url == account.sessions[payment.checkout_id]["url"]
    assert (payment.state, payment.attempt) == ("open", 1)
    assert Order.objects.get().state == OrderState.AWAITING_PAYMENT


def test_a_second_tab_gets_the_same_page(premium: Order, account: StandIn, now: datetime) -> None:
    first = checkouts.hand_over(premium, PAGES, now)
    second = checkouts.hand_over(Order.objects.get(), PAGES, now + timedelta(minutes=3))

    assert first == second
    assert len(account.sessions) == 1


def test_two_tabs_at_one_moment_get_the_same_page(
    premium: Order, account: StandIn, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_see = Payment.objects.get()
    first = checkouts.hand_over(premium, PAGES, now)
    monkeypatch.setattr(checkouts, "require_open", lambda order, now: both_see)

    second = checkouts.hand_over(premium, PAGES, now + timedelta(seconds=1))

    assert first == second
    assert (len(account.sessions), Payment.objects.get().attempt) == (1, 1)


def attempts(account: StandIn) -> list[str]:
    """The numbers of the attempts that Stripe was asked for a page of; the SDK asks twice what fails."""
    return [asked.key.rpartition("-")[2] for asked in account.posts(SESSIONS)]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_answer_that_was_lost_is_asked_for_again_and_opens_no_second_page(
    premium: Order, account: StandIn, now: datetime, moment: Literal["before", "after"]
) -> None:
    account.failures.extend([Failure(status=0, moment=moment)] * 2)
    with pytest.raises(Refusal, match="payment_unavailable"):
        checkouts.hand_over(premium, PAGES, now)
    assert Payment.objects.get().checkout_id == ""

    url = checkouts.hand_over(Order.objects.get(), PAGES, now + timedelta(minutes=2))

    assert url == next(iter(account.sessions.values()))["url"]
    assert (len(account.sessions), attempts(account)) == (1, ["1", "1", "1"])


@pytest.mark.parametrize(
    ("failure", "next_attempt"),
    [
        (Failure(status=401), "1"),  # nothing began: the same request may go through
        (Failure(status=429), "1"),
        (Failure(status=402), "2"),  # the same key would repeat the answer for a day
        (Failure(status=500), "2"),
        (Failure(status=503, code="api_error"), "2"),
        (Failure(status=500, moment="after"), "2"),  # nobody was given that page
    ],
)
def test_a_provider_that_fails_changes_nothing_that_matters_and_the_next_click_gets_a_page(
    premium: Order, account: StandIn, now: datetime, failure: Failure, next_attempt: str
) -> None:
    account.failures.extend([failure] * 2)
    with pytest.raises(Refusal, match="payment_unavailable"):
        checkouts.hand_over(premium, PAGES, now)
    account.failures.clear()
    assert (Payment.objects.get().state, Payment.objects.get().checkout_id) == ("open", "")
    assert Order.objects.get().state == OrderState.AWAITING_PAYMENT

    url = checkouts.hand_over(Order.objects.get(), PAGES, now + timedelta(minutes=2))

    payment = Payment.objects.get()
    assert url == account.sessions[payment.checkout_id]["url"]
    assert (attempts(account)[-1], payment.checkout_state) == (next_attempt, "open")
    account.pay(payment.checkout_id)
    assert checkouts.hand_over(Order.objects.get(), PAGES, now + timedelta(minutes=3)) == ""
    assert Payment.objects.get().state == "paid"


def test_an_error_for_one_tab_takes_no_page_from_the_other(
    premium: Order, account: StandIn, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ask for the same attempt; the first tab's answer comes while the second one's breaks."""
    ask = StripeCheckout.open_checkout
    urls = []

    def break_after_the_other(stripe: StripeCheckout, bill: Bill) -> Checkout:
        with monkeypatch.context() as undone:
            undone.setattr(StripeCheckout, "open_checkout", ask)
            urls.append(checkouts.hand_over(Order.objects.get(), PAGES, now))
        raise ProviderBroke("stripe_500")

    with monkeypatch.context() as breaking:
        breaking.setattr(StripeCheckout, "open_checkout", break_after_the_other)
        with pytest.raises(Refusal, match="payment_unavailable"):
            checkouts.hand_over(premium, PAGES, now)

    assert checkouts.hand_over(Order.objects.get(), PAGES, now) == urls[0]
    assert (len(account.sessions), Payment.objects.get().attempt) == (1, 1)


def test_a_page_that_comes_after_the_next_attempt_began_is_given_to_nobody(
    premium: Order, account: StandIn, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two pages could be paid."""
    ask = StripeCheckout.open_checkout
    urls = []

    def be_overtaken(stripe: StripeCheckout, bill: Bill) -> Checkout:
        late = ask(stripe, bill)
        with monkeypatch.context() as undone:
            undone.setattr(StripeCheckout, "open_checkout", ask)
            Payment.objects.update(checkout_state="failed")  # as another tab has it after an error
            urls.append(checkouts.hand_over(Order.objects.get(), PAGES, now))
        return late

    with monkeypatch.context() as overtaking:
        overtaking.setattr(StripeCheckout, "open_checkout", be_overtaken)
        with pytest.raises(Refusal, match="payment_unavailable"):
            checkouts.hand_over(premium, PAGES, now)

    assert checkouts.hand_over(Order.objects.get(), PAGES, now) == urls[0]
    assert urls[0] == account.sessions[Payment.objects.get().checkout_id]["url"]


def test_after_a_page_has_expired_there_is_a_new_one(
    premium: Order, session_id: str, account: StandIn, now: datetime
) -> None:
    account.expire(session_id)

    checkouts.hand_over(Order.objects.get(), PAGES, now)

    payment = Payment.objects.get()
    assert (payment.attempt, payment.checkout_state) == (2, "open")
    assert [each["status"] for each in account.sessions.values()] == ["expired", "open"]


def test_a_page_that_was_paid_is_taken_as_paid_even_before_its_event(
    premium: Order, session_id: str, account: StandIn, now: datetime
) -> None:
    account.pay(session_id)

    assert checkouts.hand_over(Order.objects.get(), PAGES, now) == ""

    assert Payment.objects.get().state == "paid"
    assert Order.objects.get().state == OrderState.QUEUED
    assert len(account.sessions) == 1


def test_a_page_that_is_being_processed_is_not_opened_again(
    premium: Order, session_id: str, account: StandIn, now: datetime, deliver: Callable[..., str]
) -> None:
    deliver(account.begin_delayed(session_id))

    assert checkouts.hand_over(Order.objects.get(), PAGES, now) == ""

    assert (len(account.sessions), Payment.objects.get().state) == (1, "open")


def test_an_order_that_ends_too_soon_is_not_sold(premium: Order, account: StandIn) -> None:
    late = premium.expires_at - timedelta(minutes=69)

    with pytest.raises(Refusal, match="too_late_to_pay"):
        checkouts.hand_over(premium, PAGES, late)

    assert not account.asked


def test_a_photo_that_was_not_looked_at_yet_is_not_paid_for(
    place: Callable[..., Placed], account: StandIn, now: datetime
) -> None:
    with pytest.raises(Refusal, match="not_payable"):
        checkouts.hand_over(place(tier_slug="premium").order, PAGES, now)

    assert not account.asked


def test_an_address_that_is_not_stripes_is_not_followed(
    premium: Order, account: StandIn, now: datetime
) -> None:
    account.checkout_origin = "https://evil.example"

    with pytest.raises(Refusal, match="payment_unavailable"):
        checkouts.hand_over(premium, PAGES, now)


def test_an_order_deleted_while_its_page_opens_leads_nowhere(
    premium: Order, account: StandIn, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = checkouts._opened

    def open_and_lose(*args: object) -> object:
        page = opened(*args)  # type: ignore[arg-type]
        fencing.begin(premium, reason="customer", now=now)
        return page

    monkeypatch.setattr(checkouts, "_opened", open_and_lose)
    with pytest.raises(NotFound):
        checkouts.hand_over(premium, PAGES, now)

    settlement.run(now)

    (session,) = account.sessions.values()
    assert session["status"] == "expired"  # nobody can pay it
    assert not Refund.objects.exists()


def test_paying_while_the_order_is_deleted_gives_the_money_back(
    premium: Order, session_id: str, account: StandIn, now: datetime
) -> None:
    """The event is lost as well: the look at the page finds the payment."""
    account.pay(session_id)
    purge.request(premium, actor="customer", now=now)

    settlement.run(now)
    settlement.run(now)

    assert Payment.objects.get().state == "paid"
    assert account.refunded_cents() == 1900
    assert Refund.objects.get().state == "sent"
    assert Order.objects.get().state in (OrderState.PURGING, OrderState.PURGED)


def test_a_payment_without_an_event_is_found_by_looking(
    premium: Order, session_id: str, account: StandIn, now: datetime, deliver: Callable[..., str]
) -> None:
    event = account.pay(session_id)
    assert settlement.run(now + timedelta(seconds=119)).looked_up == 0

    settled = settlement.run(now + checkouts.LOOK_AFTER)

    assert (settled.looked_up, settled.found_paid) == (1, 1)
    assert Order.objects.get().state == OrderState.QUEUED
    assert deliver(event) == "nothing_new"
    assert AuditEntry.objects.filter(event="payment.paid").count() == 1


def test_looking_is_not_repeated_at_once_and_survives_a_provider_that_is_away(
    premium: Order, session_id: str, account: StandIn, now: datetime
) -> None:
    later = now + checkouts.LOOK_AFTER
    account.failures.extend([Failure(status=500)] * 2)

    assert settlement.run(later).looked_up == 1
    assert settlement.run(later + timedelta(minutes=4)).looked_up == 0
    assert settlement.run(later + timedelta(minutes=5)).looked_up == 1

    assert Payment.objects.get().state == "open"
