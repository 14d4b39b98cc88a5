"""Paying as a program does it: the provider's page for the bearer of the token, and why there is none."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from headshots.exceptions import Refusal
from headshots.models import Order, Payment
from headshots.services import checkouts, estimates, orders, uploads
from headshots.services.orders import Placed
from headshots.states import OrderState
from tests.api.conftest import assert_refused, bearer
from tests.payments.stand_in import Failure, StandIn

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def unclean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are taken as they come: the sandbox has tests of its own."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


@pytest.fixture
def waiting(account: StandIn, place: Callable[..., Placed], now: datetime) -> Placed:
    """A premium order whose photo is fine."""
    placed = place(tier_slug="premium", raw=b"a photo")
    orders.accept(placed.order, now)
    return placed


@pytest.fixture
def pay(client: Client) -> Callable[[Placed], Any]:
    """Asks for the page where an order is paid."""
    return lambda placed: client.post(
        f"/api/v1/orders/{placed.order.pk}/checkout", headers=bearer(placed.token)
    )


def test_the_bearer_gets_the_page_that_the_sites_button_leads_to_and_polls_on_once_it_is_paid(
    client: Client, waiting: Placed, account: StandIn, pay: Callable[[Placed], Any]
) -> None:
    answer = pay(waiting)

    (session,) = account.sessions.values()
    assert (answer.status_code, answer.json()) == (200, {"url": session["url"]})
    assert answer["Cache-Control"] == "no-store, private"
    assert session["success_url"] == f"http://localhost:8000/orders/{waiting.order.pk}/checkout/return"
    assert pay(waiting).json() == answer.json()  # asked again, it is the same page
    client.post("/o", {"token": waiting.token})
    assert client.post(f"/orders/{waiting.order.pk}/checkout")["Location"] == session["url"]

    account.pay(session["id"])

    assert pay(waiting).json() == {"url": None}  # seen before its event came
    assert Payment.objects.get().state == Payment.State.PAID
    assert Order.objects.get().state == OrderState.QUEUED
    assert len(account.sessions) == 1


def test_an_order_that_waits_for_no_payment_is_refused(
    place: Callable[..., Placed], account: StandIn, pay: Callable[[Placed], Any]
) -> None:
    free, unchecked = place(raw=b"a photo"), place(raw=b"a photo", tier_slug="premium")

    for placed in (free, unchecked):
        assert_refused(pay(placed), "not_payable")

    assert account.asked == []
    assert set(Order.objects.values_list("state", flat=True)) == {OrderState.ASSESSING}


def test_a_foreign_token_opens_no_page(
    client: Client, waiting: Placed, place: Callable[..., Placed], account: StandIn
) -> None:
    other = place(raw=b"a photo")
    url = f"/api/v1/orders/{waiting.order.pk}/checkout"

    assert_refused(client.post(url, headers=bearer(other.token)), "order_not_found")
    assert_refused(client.post(url), "token_missing")
    assert client.get(url, headers=bearer(waiting.token)).status_code == 405
    assert account.asked == []


@pytest.mark.parametrize("code", ["too_late_to_pay", "payment_unavailable", "queue_full"])
def test_why_there_is_no_page_now_is_said(
    waiting: Placed,
    account: StandIn,
    pay: Callable[[Placed], Any],
    monkeypatch: pytest.MonkeyPatch,
    code: str,
) -> None:
    if code == "too_late_to_pay":
        Order.objects.update(expires_at=timezone.now() + checkouts.PAGE_LIFE)
    elif code == "payment_unavailable":
        account.failures.extend([Failure(status=401)] * 2)
    else:
        monkeypatch.setattr(estimates, "require_room", refuse)

    assert_refused(pay(waiting), code)

    assert account.sessions == {}
    assert Order.objects.get().state == OrderState.AWAITING_PAYMENT
    assert Payment.objects.get().state == Payment.State.OPEN


def refuse(*args: object) -> None:
    raise Refusal("queue_full")
