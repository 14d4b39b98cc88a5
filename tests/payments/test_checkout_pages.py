"""The pages before and after Stripe's: they show what the rows say, and coming back proves nothing."""

import re
from collections.abc import Callable
from datetime import datetime

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from headshots.models import Order, Payment
from headshots.payments import provider
from headshots.payments.types import ProviderRefused
from headshots.services import clock, payments
from headshots.services.orders import Placed
from headshots.states import OrderState
from headshots.web.middleware import policy
from tests.payments.stand_in import Failure, Json, StandIn

pytestmark = pytest.mark.django_db


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


def test_an_order_that_is_paid_and_about_to_start_asks_for_no_second_payment(customer: Client) -> None:
    """Paid while its photo was looked at: a process that died before starting it leaves it like this."""
    waiting = customer.get(at("order")).content.decode()
    assert "Waiting for the payment" in waiting
    assert at("checkout") in waiting
    assert customer.get(at("progress")).status_code == 286
    Payment.objects.update(state="paid")

    page = customer.get(at("order")).content.decode()

    assert "<h1>Paid. Your headshots start in a moment</h1>" in page
    assert at("checkout") not in page
    assert "Waiting for the payment" not in page
    (seen,) = re.findall(r'hx-get="[^"]*seen=([^"]*)"', page)
    assert customer.get(at("progress"), {"seen": seen}).status_code == 204
    payments.start_if_paid(Order.objects.get(), clock.now())
    started = customer.get(at("progress"), {"seen": seen})
    assert (started.status_code, "In the queue" in started.content.decode()) == (200, True)


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
