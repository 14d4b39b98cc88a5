"""Refunds that somebody makes at Stripe without us: counted while they stand, owed again when they fail."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from headshots.models import AuditEntry, Order, Payment, Refund
from headshots.payments.stripe_checkout import StripeCheckout
from headshots.services import fencing, progress, purge, settlement, staff_refunds
from tests.payments.conftest import finish_with
from tests.payments.stand_in import Failure, Json, StandIn

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
Deliver = Callable[..., str]


def test_a_refund_made_at_stripe_is_recorded_once(
    intent: str, account: StandIn, now: datetime, deliver: Deliver
) -> None:
    first = account.refund_by_hand(intent, 500)
    settlement.run(now + timedelta(hours=1))
    second = account.refund_by_hand(intent, 300)

    for event in (second, first, second):
        deliver(event)
        settlement.run(now + timedelta(hours=1))

    recorded = [(each.amount_cents, each.reason) for each in Refund.objects.order_by("sequence")]
    assert recorded == [(500, "outside"), (300, "outside")]
    assert Payment.objects.get().look_at is None


def test_while_stripe_is_away_a_refund_made_there_is_looked_for_again(
    intent: str, account: StandIn, now: datetime, deliver: Deliver
) -> None:
    deliver(account.refund_by_hand(intent, 500))
    account.failures.extend([Failure(status=500)] * 2)
    settlement.run(now + timedelta(hours=1))
    assert not Refund.objects.exists()

    settlement.run(now + timedelta(hours=1) + settlement.LOOK_INTERVAL)

    assert Refund.objects.get().amount_cents == 500


@pytest.mark.parametrize(
    "changes", [{"amount": 1}, {"currency": "eur"}, {"amount_refunded": 1901}, {"payment_intent": "pi_other"}]
)
def test_a_refund_that_contradicts_our_record_changes_nothing(
    intent: str, account: StandIn, deliver: Deliver, changes: Json
) -> None:
    account.refund_by_hand(intent, 500)

    assert deliver(account.event("charge.refunded", account._charge(intent) | changes)) == "mismatch"

    assert not Refund.objects.exists()


# --- and that fail later ----------------------------------------------------------------------------------


def given_by_hand(account: StandIn, cents: int) -> str:
    """The number of the refund of that sum which somebody made at Stripe."""
    (found,) = [
        each["id"] for each in account.refunds.values() if (each["amount"], each["metadata"]) == (cents, {})
    ]
    return str(found)


def rows() -> list[tuple[int, str, str]]:
    return [(each.amount_cents, each.reason, each.state) for each in Refund.objects.order_by("sequence")]


@pytest.fixture
def given(intent: str, account: StandIn, now: datetime, deliver: Deliver) -> str:
    """The whole price was given back by hand, and we know it; its number."""
    deliver(account.refund_by_hand(intent, 1900))
    settlement.run(now + timedelta(minutes=30))
    assert rows() == [(1900, "outside", "sent")]
    return given_by_hand(account, 1900)


def test_one_that_fails_no_longer_counts_as_given(
    premium: Order, given: str, account: StandIn, now: datetime, deliver: Deliver
) -> None:
    finish_with(premium, 50, now)

    assert deliver(account.fail_refund(given)) == "noted"
    settlement.run(now + timedelta(hours=1))

    assert rows() == [(1900, "outside", "failed")]
    assert progress.view(Order.objects.get(), now).refunded_cents == 0
    assert staff_refunds.left_cents(premium) == 1900
    assert AuditEntry.objects.get(event="refund.failed").detail == {"sequence": 1, "code": "failed"}
    assert Payment.objects.get().look_at is None


def test_staff_can_give_back_what_failed(
    premium: Order, given: str, account: StandIn, now: datetime, deliver: Deliver
) -> None:
    finish_with(premium, 50, now)
    deliver(account.fail_refund(given))
    settlement.run(now + timedelta(hours=1))

    assert staff_refunds.refund(premium, pictures=None, reason="goodwill", actor="anna", now=now) == 1900
    settlement.run(now + timedelta(hours=2))

    assert account.refunded_cents() == 1900
    assert rows() == [(1900, "outside", "failed"), (1900, "staff", "sent")]


@pytest.mark.parametrize("is_deleted", [False, True])
def test_what_is_owed_for_missing_pictures_goes_back_after_all(
    premium: Order, given: str, account: StandIn, now: datetime, deliver: Deliver, is_deleted: bool
) -> None:
    finish_with(premium, 40, now)
    if is_deleted:
        purge.request(premium, actor="customer", now=now)
    assert rows() == [(1900, "outside", "sent")]  # nothing is owed on top of the whole price

    deliver(account.fail_refund(given))
    settlement.run(now + timedelta(hours=1))
    settlement.run(now + timedelta(hours=2))

    assert rows() == [(1900, "outside", "failed"), (380, "not delivered", "sent")]
    assert account.refunded_cents() == 380


def test_while_pictures_are_made_nothing_is_owed_for_them(
    given: str, account: StandIn, now: datetime, deliver: Deliver
) -> None:
    deliver(account.fail_refund(given))
    settlement.run(now + timedelta(hours=1))

    assert rows() == [(1900, "outside", "failed")]


def test_an_order_purged_after_a_restore_is_left_to_staff(
    premium: Order, given: str, account: StandIn, now: datetime, deliver: Deliver
) -> None:
    fencing.begin(premium, reason="restored", now=now)

    deliver(account.fail_refund(given))
    settlement.run(now + timedelta(hours=1))

    assert rows() == [(1900, "outside", "failed")]
    assert staff_refunds.left_cents(premium) == 1900


@pytest.mark.parametrize(
    ("failing", "states"),
    [
        ([500], ["failed", "sent", "sent"]),
        ([300], ["sent", "failed", "sent"]),
        ([70], ["sent", "sent", "failed"]),
        ([500, 300], ["failed", "failed", "sent"]),
    ],
)
def test_of_several_those_fail_that_failed(
    intent: str, account: StandIn, now: datetime, deliver: Deliver, failing: list[int], states: list[str]
) -> None:
    for hour, cents in enumerate((500, 300, 70), start=1):
        deliver(account.refund_by_hand(intent, cents))
        settlement.run(now + timedelta(hours=hour))

    for hour, cents in enumerate(failing, start=5):
        assert deliver(account.fail_refund(given_by_hand(account, cents))) == "noted"
        settlement.run(now + timedelta(hours=hour))

    assert [state for *_, state in rows()] == states


def test_several_that_were_seen_as_one_are_told_apart_by_what_is_left(
    intent: str, account: StandIn, now: datetime, deliver: Deliver
) -> None:
    account.refund_by_hand(intent, 500)
    deliver(account.refund_by_hand(intent, 300))
    settlement.run(now + timedelta(minutes=30))
    assert rows() == [(800, "outside", "sent")]

    deliver(account.fail_refund(given_by_hand(account, 300)))
    settlement.run(now + timedelta(hours=1))

    assert rows() == [(800, "outside", "failed"), (500, "outside", "sent")]


def test_a_failure_that_comes_again_or_before_we_knew_changes_nothing(
    intent: str, account: StandIn, now: datetime, deliver: Deliver
) -> None:
    made = account.refund_by_hand(intent, 500)
    failed = account.fail_refund(given_by_hand(account, 500))

    for event in (failed, made, failed):
        deliver(event)
        settlement.run(now + timedelta(hours=1))

    assert rows() == []


def test_a_failure_that_overtakes_the_payment_leaves_no_row(
    session_id: str, account: StandIn, now: datetime, deliver: Deliver
) -> None:
    paid = account.pay(session_id)
    made = account.refund_by_hand(next(iter(account.intents)), 500)
    assert deliver(account.fail_refund(given_by_hand(account, 500))) == "foreign"

    deliver(paid)
    deliver(made)
    settlement.run(now + timedelta(hours=1))

    assert (rows(), Payment.objects.get().look_at) == ([], None)


def test_a_failure_in_another_currency_changes_nothing(
    given: str, account: StandIn, now: datetime, deliver: Deliver
) -> None:
    failed = account.refunds[given] | {"status": "failed", "currency": "eur"}

    assert deliver(account.event("refund.failed", failed)) == "mismatch"

    assert Payment.objects.get().look_at is None
    assert rows() == [(1900, "outside", "sent")]


def test_a_look_that_was_overtaken_by_an_event_writes_nothing(
    intent: str, account: StandIn, now: datetime, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it read may be older than what a later look has written: it is left to that one."""
    deliver(account.refund_by_hand(intent, 500))
    given_back = StripeCheckout.given_back

    def read_and_be_overtaken(stripe: StripeCheckout, charge_reference: str) -> object:
        read = given_back(stripe, charge_reference)
        with monkeypatch.context() as undone:
            undone.setattr(StripeCheckout, "given_back", given_back)
            deliver(account.fail_refund(given_by_hand(account, 500)))
            settlement.run(now + timedelta(hours=1, seconds=1))
        return read

    monkeypatch.setattr(StripeCheckout, "given_back", read_and_be_overtaken)
    settlement.run(now + timedelta(hours=1))

    assert (rows(), Payment.objects.get().look_at) == ([], None)
