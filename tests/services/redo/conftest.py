"""Redo: the orders to begin with."""

from collections.abc import Callable
from datetime import datetime

import pytest

from headshots.models import Order, Shot
from headshots.services import orders, uploads
from headshots.services.orders import Placed
from headshots.states import OrderState, ShotState
from tests.paying import pay
from tests.services.redo.making import commit_all


@pytest.fixture(autouse=True)
def _no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a photo looks like is no matter here."""
    monkeypatch.setattr(uploads, "clean", lambda raw: raw)


@pytest.fixture
def ready(place: Callable[..., Placed], now: datetime) -> Order:
    """A free order with an address, whose three pictures were delivered at `now`."""
    order = place(address="ada@example.org", now=now).order
    orders.accept(order, now)
    commit_all(now)
    return Order.objects.get()


@pytest.fixture
def pack(place: Callable[..., Placed], now: datetime) -> Order:
    """A paid premium order of which fifty pictures were delivered at `now`; they have no files."""
    order = place(tier_slug="premium", now=now).order
    orders.accept(order, now)
    pay(Order.objects.get(pk=order.pk), now)
    delivered = Shot.objects.filter(order=order, index__lte=order.headshots)
    delivered.update(state=ShotState.DONE)
    orders.finish(order.pk, now)
    found = Order.objects.get(pk=order.pk)
    assert (found.state, found.finished_at) == (OrderState.READY, now)
    return found
