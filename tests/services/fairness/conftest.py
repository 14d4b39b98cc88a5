"""Orders that have begun."""

from collections.abc import Callable
from datetime import datetime

import pytest

from headshots.models import Order
from headshots.services import orders, uploads
from headshots.services.orders import Placed
from tests.paying import pay


@pytest.fixture(autouse=True)
def unlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos are taken as they are: the process that cleans them has tests of its own, and takes its time."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


@pytest.fixture
def start(place: Callable[..., Placed], now: datetime) -> Callable[..., Order]:
    """Places an order of a tier and lets it enter the queue at `at`."""

    def start_one(tier: str, at: datetime = now) -> Order:
        order = place(tier_slug=tier).order
        orders.accept(order, at)
        if order.price_cents:
            pay(Order.objects.get(pk=order.pk), at)
        return Order.objects.get(pk=order.pk)

    return start_one
