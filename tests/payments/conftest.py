"""A service that takes its money through Stripe's SDK, from a stand-in on loopback."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from pytest_django import Settings
from stripe._http_client import HTTPClient

from headshots.models import Order, Payment, Shot
from headshots.payments import provider
from headshots.services import checkouts, orders, uploads
from headshots.services.checkouts import Pages
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from tests.payments.stand_in import SECRET_KEY, WEBHOOK_SECRET, Json, StandIn, serving, signed

PAGES = Pages(success_url="https://site.example/back", cancel_url="https://site.example/unpaid")


@pytest.fixture(scope="session")
def _server() -> Iterator[StandIn]:
    with serving() as account:
        yield account


@pytest.fixture
def account(_server: StandIn, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """An empty account at the stand-in, and this process set up for it."""
    url = _server.url
    _server.__init__(url=url)  # type: ignore[misc]
    settings.PAYMENTS = "stripe"
    settings.STRIPE_SECRET_KEY = SECRET_KEY
    settings.STRIPE_WEBHOOK_SECRET = WEBHOOK_SECRET
    settings.STRIPE_API_BASE = url
    settings.STRIPE_IS_LIVE = False
    monkeypatch.setattr(HTTPClient, "INITIAL_DELAY", 0.0)  # between two tries of one request
    provider.cache_clear()
    yield _server
    provider.cache_clear()


@pytest.fixture(autouse=True)
def _no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a photo looks like is no matter here."""
    monkeypatch.setattr(uploads, "clean_portrait_in_sandbox", lambda raw, **options: raw)


@pytest.fixture
def premium(account: StandIn, place: Callable[..., Placed], now: datetime) -> Order:
    """A premium order whose photo is fine: it waits for its payment."""
    order = place(tier_slug="premium").order
    orders.accept(order, now)
    order.refresh_from_db()
    return order


@pytest.fixture
def session_id(premium: Order, account: StandIn, now: datetime) -> str:
    """The session that its customer was sent to."""
    checkouts.hand_over(premium, PAGES, now)
    return Payment.objects.get().checkout_id


@pytest.fixture
def deliver(client: Client) -> Callable[..., str]:
    """Delivers an event as Stripe does; what became of it, or the status when it was not taken."""

    def post(event: Json, **signing: object) -> str:
        body, signature = signed(event, **signing)  # type: ignore[arg-type]
        response = post_event(client, body, signature)
        if response.status_code != 200:
            return f"{response.status_code} {json.loads(response.content)['outcome']}"
        return str(json.loads(response.content)["outcome"])

    return post


@pytest.fixture
def intent(session_id: str, account: StandIn, deliver: Callable[..., str]) -> str:
    """The charge of an order that is paid."""
    assert deliver(account.pay(session_id)) == "taken"
    return Payment.objects.get().charge_reference


def post_event(client: Client, body: bytes, signature: str) -> HttpResponse:
    """One request to the webhook."""
    return client.post(
        reverse("stripe-webhook"),
        data=body,
        content_type="application/json; charset=utf-8",
        headers={"Stripe-Signature": signature},
    )


def finish_with(order: Order, delivered: int, now: datetime) -> None:
    """Close a paid order after `delivered` pictures."""
    shots = Shot.objects.filter(order=order)
    shots.filter(index__lte=delivered).update(state=ShotState.DONE)
    shots.filter(index__gt=delivered).update(state=ShotState.FAILED, error_code="quality_gate")
    Order.objects.filter(pk=order.pk).update(state=OrderState.RENDERING)
    orders.finish(order.pk, now)
