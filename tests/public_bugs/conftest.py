"""A paid-for order at the provider's page, a finished one, and everything that is held of all of them."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from headshots.models import Order, OrderKey, Payment, Receipt, Refund, Selfie, Shot, StoredObject
from headshots.services import objects, orders, uploads
from headshots.services.orders import Placed
from tests.api.conftest import post_order, ready
from tests.payments.conftest import _server, account, deliver
from tests.payments.stand_in import StandIn
from tests.web.conftest import hold
from tests.web.test_routes import ROUTES

__all__ = ["_server", "account", "deliver", "post_order", "ready"]  # fixtures of other tests

ORDER_ROUTES = [route for route in ROUTES if "order_id" in route]
ADDRESS = "ada.lovelace@example.org"


@pytest.fixture
def as_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are taken as they come: the sandbox has tests of its own."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


@pytest.fixture
def bought(
    as_sent: None, client: Client, account: StandIn, place: Callable[..., Placed], now: datetime
) -> Placed:
    """A premium order, held by `client`, whose customer stands at the provider's page."""
    placed = place(tier_slug="premium", address=ADDRESS)
    orders.accept(placed.order, now)
    hold(client, placed)
    client.post(reverse("checkout", args=(placed.order.pk,)))
    return placed


@pytest.fixture
def finished(as_sent: None, ready: Placed) -> Placed:
    """A free order with its three pictures; they are plain ones."""
    return ready


def held_of_all() -> list[Any]:
    """Every row about orders, and every sealed byte."""
    models = (Order, OrderKey, Selfie, Shot, StoredObject, Payment, Refund, Receipt)
    rows = [list(model.objects.order_by("pk").values()) for model in models]
    return [*rows, {name: objects.blobs().get(name) for name in objects.blobs().list("o/")}]
