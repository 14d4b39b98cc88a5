"""The way to Stripe: one page at a time, with our numbers and nothing about the person."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from headshots.exceptions import NotFound, Refusal
from headshots.models import AuditEntry, Order, Payment, Refund
from headshots.payments import provider
from headshots.payments.types import ProviderRefused
from headshots.services import checkouts, fencing, purge, settlement
from headshots.services.orders import Placed
from headshots.states import OrderState
from headshots.web.middleware import policy
from tests.payments.conftest import PAGES
from tests.payments.stand_in import Failure, Json, StandIn

pytestmark = pytest.mark.django_db
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


@pytest.mark.parametrize(
    "failure", [Failure(status=0, moment="after"), Failure(status=503, moment="after", code="api_error")]
)
def test_an_answer_that_was_lost_is_asked_for_again_and_opens_no_second_page(
    premium: Order, account: StandIn, now: datetime, failure: Failure
) -> None:
    account.failures.extend([failure, failure])  # the SDK asks twice
    with pytest.raises(Refusal, match="payment_unavailable"):
        checkouts.hand_over(premium, PAGES, now)
    assert Payment.objects.get().checkout_id == ""

    url = checkouts.hand_over(Order.objects.get(), PAGES, now + timedelta(minutes=2))

    assert url == next(iter(account.sessions.values()))["url"]
    assert len(account.sessions) == 1


@pytest.mark.parametrize("status", [401, 402, 429, 500])
def test_a_provider_that_fails_changes_nothing_that_matters(
    premium: Order, account: StandIn, now: datetime, status: int
) -> None:
    account.failures.extend([Failure(status=status)] * 2)

    with pytest.raises(Refusal, match="payment_unavailable"):
        checkouts.hand_over(premium, PAGES, now)

    assert not account.sessions
    assert Payment.objects.get().state == "open"
    assert Order.objects.get().state == OrderState.AWAITING_PAYMENT


def test_after_a_refusal_the_next_click_is_a_new_attempt(
    premium: Order, account: StandIn, now: datetime
) -> None:
    account.failures.append(Failure(status=402))
    with pytest.raises(Refusal, match="payment_unavailable"):
        checkouts.hand_over(premium, PAGES, now)

    assert checkouts.hand_over(Order.objects.get(), PAGES, now)

    keys = [asked.key.rpartition("-")[2] for asked in account.posts(SESSIONS)]
    assert keys == ["1", "2"]


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


# --- pages ------------------------------------------------------------------------------------------------


@pytest.fixture
def customer(client: Client, place: Callable[..., Placed], account: StandIn, now: datetime) -> Client:
    """A browser that holds the cookie of an accepted premium order."""
    from headshots.services import orders

    placed = place(tier_slug="premium")
    orders.accept(placed.order, now)
    client.post(reverse("open"), {"token": placed.token})
    return client


def at(name: str) -> str:
    return reverse(name, args=(Order.objects.get().pk,))


def test_the_checkout_hands_over_to_the_provider(customer: Client, account: StandIn) -> None:
    bill = customer.get(at("checkout"))
    assert "Pay $19.00" in bill.content.decode()
    assert "TEST" not in bill.content.decode().replace("PREVIEW", "")

    response = customer.post(at("checkout"))

    assert (response.status_code, response["Location"].partition("#")[0]) == (
        302,
        f"{account.url}/c/pay/cs_test_000001",
    )
    (session,) = account.sessions.values()
    order_id = Order.objects.get().pk
    assert session["success_url"] == f"http://localhost:8000/orders/{order_id}/checkout/return"
    assert session["cancel_url"] == f"http://localhost:8000/orders/{order_id}/checkout?unpaid"


def test_coming_back_proves_nothing(customer: Client, account: StandIn) -> None:
    customer.post(at("checkout"))

    page = customer.get(at("checkout-return"))

    assert page.status_code == 200
    assert "We wait for the confirmation of your payment" in page.content.decode()
    assert Payment.objects.get().state == "open"
    assert Order.objects.get().state == OrderState.AWAITING_PAYMENT


def test_the_waiting_page_goes_on_once_the_event_has_come(
    customer: Client, account: StandIn, deliver: Callable[..., str]
) -> None:
    customer.post(at("checkout"))
    session_id = Payment.objects.get().checkout_id
    unchanged = customer.get(at("checkout-status"), {"seen": "open", "since": "9999999999"})
    assert unchanged.status_code == 204

    deliver(account.pay(session_id))

    paid = customer.get(at("checkout-status"), {"seen": "open"})
    assert (paid.status_code, paid["HX-Redirect"]) == (286, at("order"))
    assert customer.get(at("checkout-return"))["Location"] == at("order")


def test_the_waiting_page_says_when_it_takes_long(customer: Client) -> None:
    customer.post(at("checkout"))

    page = customer.get(at("checkout-status"), {"seen": "open", "since": "1"})

    assert page.status_code == 200
    assert "This takes longer than usual" in page.content.decode()
    assert "seen=open-slow" in page.content.decode()


@pytest.mark.parametrize(
    ("fail", "words"),
    [
        (StandIn.expire, "The payment page has closed"),
        (StandIn.fail_delayed, "The payment did not go through"),
    ],
)
def test_a_payment_that_failed_says_so_and_what_to_do(
    customer: Client,
    account: StandIn,
    deliver: Callable[..., str],
    fail: Callable[[StandIn, str], Json],
    words: str,
) -> None:
    customer.post(at("checkout"))
    session_id = Payment.objects.get().checkout_id
    account.begin_delayed(session_id)

    assert deliver(fail(account, session_id)) == "noted"

    page = customer.get(at("checkout-status"), {"seen": "open"})
    assert page.status_code == 286
    assert words in page.content.decode()
    assert at("checkout") in page.content.decode()
    assert "Nothing was charged" in customer.get(at("checkout")).content.decode()


def test_coming_back_without_paying_is_told(customer: Client) -> None:
    customer.post(at("checkout"))

    page = customer.get(at("checkout") + "?unpaid").content.decode()

    assert "You came back without paying. Nothing was charged" in page


def test_a_provider_that_is_away_is_told_with_when_to_come_back(customer: Client, account: StandIn) -> None:
    account.failures.extend([Failure(status=500)] * 2)

    response = customer.post(at("checkout"))

    assert response.status_code == 503
    assert "We cannot reach our payment provider" in response.content.decode()


def test_strangers_cannot_look_at_a_checkout(client: Client, premium: Order) -> None:
    for name in ("checkout", "checkout-return", "checkout-status"):
        assert client.get(at(name)).status_code == 404


def test_the_policy_lets_forms_lead_to_the_provider_and_nowhere_else(
    account: StandIn, settings: Settings
) -> None:
    settings.STRIPE_API_BASE = ""
    provider.cache_clear()
    origins = provider("stripe").checkout_origins

    directives = policy(origins).split("; ")

    assert "form-action 'self' https://checkout.stripe.com" in directives
    assert "form-action 'self'" in policy(()).split("; ")


def test_a_provider_this_installation_is_not_set_up_for_does_not_exist(account: StandIn) -> None:
    with pytest.raises(KeyError):
        provider("test")


def test_the_test_provider_keeps_nothing_to_look_up(settings: Settings) -> None:
    settings.PAYMENTS = "test"

    with pytest.raises(ProviderRefused, match="resource_missing"):
        provider("test").look_up("test-1")
