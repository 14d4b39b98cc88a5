"""Whatever is repeated, reordered, lost or breaks off: one charge, one pack, refunds exact to the cent."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from headshots.models import AuditEntry, Dispute, Order, Payment, Refund, Shot
from headshots.services import checkouts, fencing, orders, payments, settlement
from headshots.services.orders import Placed
from headshots.states import OrderState
from tests.payments.conftest import PAGES, finish_with, post_event
from tests.payments.stand_in import Failure, Json, StandIn, signed

pytestmark = pytest.mark.django_db

CRASHES = (None, None, None, "payment.recorded", "payment.committed")  # a process that dies here
FAILURES = (
    Failure(status=0),
    Failure(status=0, moment="after"),
    Failure(status=429, code="rate_limit"),
    Failure(status=500, moment="after"),
)


@dataclass
class Postman:
    """Delivers events as Stripe does: in any order, again and again, and until they are answered."""

    client: Client
    data: st.DataObject
    crash_at: list[str] = field(default_factory=list)
    _unanswered: list[Json] = field(default_factory=list)

    def faultpoint(self, name: str) -> None:
        """Stands in for the service's own points: dies at the one that is due."""
        if name in self.crash_at:
            self.crash_at.clear()
            raise SystemExit

    def deliver(self, events: list[Json]) -> None:
        """Every event 1 to 5 times in a random order, some to a process that dies over it."""
        copies = [each for each in events for _ in range(self.data.draw(st.integers(1, 5)))]
        for event in self.data.draw(st.permutations(copies)):
            self._post(event, self.data.draw(st.sampled_from(CRASHES)))
        while self._unanswered:
            self._post(self._unanswered.pop(), None)

    def _post(self, event: Json, crash: str | None) -> None:
        self.crash_at[:] = [crash] if crash else []
        try:
            status = post_event(self.client, *signed(event)).status_code
        except SystemExit:
            status = 0
        self.crash_at.clear()
        if status != 200:
            self._unanswered.append(event)


def settle_all(account: StandIn, data: st.DataObject, now: datetime) -> None:
    """Passes of the settlement, some over a bad connection, until nothing is due."""
    for step in range(20):
        account.failures.extend(data.draw(st.lists(st.sampled_from(FAILURES), max_size=3)))
        settlement.run(now + timedelta(hours=2 * step))
        account.failures.clear()
        account.forget_keys() if data.draw(st.booleans()) else None
        if not Refund.objects.filter(state=Refund.State.DUE).exists():
            return
    settlement.run(now + timedelta(days=30))


@pytest.fixture
def ground(
    account: StandIn, place: Callable[..., Placed], now: datetime, monkeypatch: pytest.MonkeyPatch
) -> tuple[StandIn, Order]:
    """An accepted premium order; every example begins here and is rolled back to here."""
    order = place(tier_slug="premium").order
    orders.accept(order, now)
    return account, Order.objects.get()


Ground = tuple[StandIn, Order]


def as_often_as(max_examples: int) -> settings:
    """No shrinking: an example is a whole life, and says what it did."""
    return settings(
        max_examples=max_examples,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@as_often_as(4)
@given(data=st.data())
def test_every_event_up_to_five_times_in_any_order_with_crashes(
    ground: Ground, now: datetime, data: st.DataObject
) -> None:
    rolled_back(ground, data, now)


@pytest.mark.slow
@as_often_as(40)
@given(data=st.data())
def test_the_same_forty_times(ground: Ground, now: datetime, data: st.DataObject) -> None:
    rolled_back(ground, data, now)


def rolled_back(ground: Ground, data: st.DataObject, now: datetime) -> None:
    """One life of an order, of which nothing is left for the next."""
    account, order = ground
    account.__init__(url=account.url)  # type: ignore[misc]
    with pytest.MonkeyPatch.context() as patch, transaction.atomic():
        postman = Postman(Client(), data)
        patch.setattr(payments, "faultpoint", postman.faultpoint)
        _one_life(account, order, postman, data, now)
        transaction.set_rollback(True)


def _one_life(account: StandIn, order: Order, postman: Postman, data: st.DataObject, now: datetime) -> None:
    delivered = data.draw(st.integers(0, 50))
    outside = data.draw(st.sampled_from([0, 0, 1, 500, 1900]))
    is_disputed = data.draw(st.booleans())
    is_deleted_first = data.draw(st.booleans())
    checkouts.hand_over(order, PAGES, now)
    events = [account.pay(Payment.objects.get().checkout_id)]
    intent = next(iter(account.intents))
    if outside:
        events.append(account.refund_by_hand(intent, outside))
    if is_disputed:
        events += [account.dispute(intent), account.dispute(intent, "won")]
    if is_deleted_first:
        delivered = 0
        fencing.begin(order, reason="customer", now=now)

    postman.deliver(events)
    orders.resume(now)  # what the sweep does for an order whose process died
    if not is_deleted_first:
        assert Order.objects.get().state == OrderState.QUEUED
        finish_with(order, delivered, now)
    settle_all(account, data, now)
    postman.deliver([*events, account.charge_refunded(intent)])
    settlement.run(now + timedelta(days=40))

    owed = -(-1900 * (50 - delivered) // 50)
    assert _facts() == {
        "charges": 1,
        "paid": 1,
        "packs": 60,
        "disputes": ["won"] if is_disputed else [],
        "mismatches": 0,
    }
    assert account.refunded_cents() == min(owed + outside, 1900)
    assert sum(each.amount_cents for each in _arrived()) == account.refunded_cents()


def _facts() -> dict[str, Any]:
    return {
        "charges": Payment.objects.filter(state="paid").exclude(charge_reference="").count(),
        "paid": AuditEntry.objects.filter(event="payment.paid").count(),
        "packs": Shot.objects.count(),
        "disputes": [each.state for each in Dispute.objects.all()],
        "mismatches": AuditEntry.objects.filter(event="payment.mismatch").count(),
    }


def _arrived() -> list[Refund]:
    return list(Refund.objects.filter(state=Refund.State.SENT))
