"""Whatever is repeated, reordered, lost or breaks off: one charge, one start, refunds exact to the cent."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from random import Random
from typing import Any, Final, Literal

import pytest
from django.db import transaction
from django.test import Client, TestCase
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from headshots.exceptions import Refusal
from headshots.hints import Task
from headshots.models import AuditEntry, Dispute, Order, Payment, Refund
from headshots.payments.stripe_events import KINDS
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What happens to an order's money at Stripe, and what is delivered."""

    paying: Literal["at once", "delayed", "second page after expiry", "second page after failure"]
    delivered: int
    is_deleted_first: bool
    outside_cents: int  # given back at Stripe by hand
    dispute: Literal["", "won", "lost"]
    disputed_cents: int
    does_outside_fail: bool
    does_ours_fail: bool

    @property
    def missing(self) -> range:
        """The pictures that are not delivered."""
        return range(1 if self.is_deleted_first else self.delivered + 1, 51)

    def back_cents(self, outside_cents: int) -> int:
        """What Stripe gives back in all; after a lost dispute the bank has given what we owed."""
        owed = 0 if self.dispute == "lost" else -(-1900 * len(self.missing) // 50)
        return min(owed + outside_cents, 1900)


LIVES: Final = st.builds(
    Life,
    paying=st.sampled_from(["at once", "delayed", "second page after expiry", "second page after failure"]),
    delivered=st.integers(0, 50),
    is_deleted_first=st.booleans(),
    outside_cents=st.sampled_from([0, 0, 1, 500, 1900]),
    dispute=st.sampled_from(["", "won", "lost"]),
    disputed_cents=st.sampled_from([1900, 1931, 38]),
    does_outside_fail=st.booleans(),
    does_ours_fail=st.booleans(),
)


@dataclass
class Postman:
    """Delivers events as Stripe does: in any order, again and again, and until they are answered."""

    client: Client
    chance: Random
    crash_at: list[str] = field(default_factory=list)
    _unanswered: list[Json] = field(default_factory=list)

    def faultpoint(self, name: str) -> None:
        """Stands in for the service's own points: dies at the one that is due."""
        if name in self.crash_at:
            self.crash_at.clear()
            raise SystemExit

    def deliver(self, events: list[Json]) -> None:
        """Every event 1 to 5 times in a random order, some to a process that dies over it."""
        copies = [each for each in events for _ in range(self.chance.randint(1, 5))]
        self.chance.shuffle(copies)
        for event in copies:
            self._post(event, self.chance.choice(CRASHES))
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


def settle_all(account: StandIn, chance: Random, now: datetime) -> None:
    """Passes of the settlement, some over a bad connection, until nothing is due."""
    for step in range(20):
        account.failures.extend(chance.choices(FAILURES, k=chance.randint(0, 3)))
        settlement.run(now + timedelta(hours=2 * step))
        account.failures.clear()
        if chance.random() < 0.5:
            account.forget_keys()
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


def test_every_kind_of_event_up_to_five_times_in_any_order_with_crashes(
    ground: Ground, now: datetime
) -> None:
    account, _ = ground
    usual: dict[str, Any] = {
        "is_deleted_first": False,
        "outside_cents": 500,
        "disputed_cents": 1931,
        "does_outside_fail": True,
        "does_ours_fail": True,
    }
    lives = (
        Life(paying="delayed", delivered=20, dispute="won", **usual),
        Life(paying="second page after expiry", delivered=49, dispute="lost", **usual),
        Life(paying="second page after failure", delivered=0, dispute="", **usual),
    )
    kinds = set()
    for number, life in enumerate(lives):
        rolled_back(ground, life, Random(number), now)
        kinds |= {event["type"] for event in account.events}

    assert kinds == KINDS.keys()


@as_often_as(3)
@given(life=LIVES, chance=st.randoms(use_true_random=False))
def test_every_event_up_to_five_times_in_any_order_with_crashes(
    ground: Ground, now: datetime, life: Life, chance: Random
) -> None:
    rolled_back(ground, life, chance, now)


@pytest.mark.slow
@as_often_as(60)
@given(life=LIVES, chance=st.randoms(use_true_random=False))
def test_the_same_sixty_times(ground: Ground, now: datetime, life: Life, chance: Random) -> None:
    rolled_back(ground, life, chance, now)


def rolled_back(ground: Ground, life: Life, chance: Random, now: datetime) -> None:
    """One life of an order, of which nothing is left for the next."""
    account, order = ground
    account.__init__(url=account.url)  # type: ignore[misc]
    with pytest.MonkeyPatch.context() as patch, transaction.atomic():
        postman = Postman(Client(), chance)
        patch.setattr(payments, "faultpoint", postman.faultpoint)
        with TestCase.captureOnCommitCallbacks() as committed:
            _one_life(account, order, life, postman, now)
        hints = [each.args[0] for each in committed if isinstance(each, partial)]
        assert hints.count(Task.RENDER) == (0 if life.is_deleted_first else 1)
        transaction.set_rollback(True)


def _one_life(account: StandIn, order: Order, life: Life, postman: Postman, now: datetime) -> None:
    events = _paid(account, order, life, postman, now)
    intent = next(iter(account.intents))
    if life.outside_cents:
        events.append(account.refund_by_hand(intent, life.outside_cents))
    if life.dispute:
        for status in ("needs_response", life.dispute):
            events.append(account.dispute(intent, status, amount=life.disputed_cents))
    if life.is_deleted_first:
        fencing.begin(order, reason="customer", now=now)
    postman.deliver(events)
    if not life.is_deleted_first:
        assert Order.objects.get().state == OrderState.QUEUED
        finish_with(order, life.delivered, now)
    settle_all(account, postman.chance, now)
    postman.deliver([*events, account.charge_refunded(intent)])
    settlement.run(now + timedelta(days=40))
    _check(account, life, life.outside_cents)

    postman.deliver([*_failed(account, life), *events])
    settle_all(account, postman.chance, now + timedelta(days=50))
    settlement.run(now + timedelta(days=90))
    with suppress(Refusal):  # staff send again what failed, if anything did
        payments.refund(order, pictures=life.missing, actor="anna", now=now + timedelta(days=100))
    settle_all(account, postman.chance, now + timedelta(days=100))
    _check(account, life, 0 if life.does_outside_fail else life.outside_cents)


def _paid(account: StandIn, order: Order, life: Life, postman: Postman, now: datetime) -> list[Json]:
    """The events of its one payment, by the first page or the second."""
    checkouts.hand_over(order, PAGES, now)
    first = Payment.objects.get().checkout_id
    if life.paying == "at once":
        return [account.pay(first)]
    if life.paying == "delayed":
        return [account.begin_delayed(first), account.succeed_delayed(first)]
    if life.paying == "second page after expiry":
        before = [account.expire(first)]
    else:
        before = [account.begin_delayed(first), account.fail_delayed(first)]
        postman.deliver(before)
    checkouts.hand_over(Order.objects.get(), PAGES, now)
    return [*before, account.pay(Payment.objects.get().checkout_id)]


def _failed(account: StandIn, life: Life) -> list[Json]:
    """The events of refunds that did not arrive: the one made by hand, and one of ours."""
    by_hand = [each["id"] for each in account.refunds.values() if not each["metadata"]]
    ours = [each["id"] for each in account.refunds.values() if each["metadata"]]
    failing = by_hand * life.does_outside_fail + ours[:1] * life.does_ours_fail
    return [account.fail_refund(refund_id) for refund_id in failing]


def _check(account: StandIn, life: Life, outside_cents: int) -> None:
    differs = life.dispute and life.disputed_cents > 1900
    assert {
        "paid": AuditEntry.objects.filter(event="payment.paid").count(),
        "pages paid": [each["payment_status"] for each in account.sessions.values()].count("paid"),
        "pages open": [each["status"] for each in account.sessions.values()].count("open"),
        "disputes": [each.state for each in Dispute.objects.all()],
        "mismatches": [each.detail["what"] for each in AuditEntry.objects.filter(event="payment.mismatch")],
    } == {
        "paid": 1,
        "pages paid": 1,
        "pages open": 0,
        "disputes": [life.dispute] if life.dispute else [],
        "mismatches": ["dispute_amount"] if differs else [],
    }
    sent = Refund.objects.filter(state=Refund.State.SENT).values_list("amount_cents", flat=True)
    assert (account.refunded_cents(), sum(sent)) == (life.back_cents(outside_cents),) * 2
