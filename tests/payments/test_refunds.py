"""Refunds on their way to Stripe: each arrives once, to the cent, whatever breaks in between."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from headshots.models import AuditEntry, Order, Payment, Refund
from headshots.services import payments, progress, settlement
from tests.payments.conftest import finish_with
from tests.payments.stand_in import Failure, StandIn

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
Deliver = Callable[..., str]
REFUNDS = "/v1/refunds"


@pytest.fixture
def paid(premium: Order, session_id: str, account: StandIn, deliver: Deliver) -> Order:
    """An order whose payment was confirmed."""
    deliver(account.pay(session_id))
    return premium


@pytest.fixture
def due(paid: Order, now: datetime) -> Refund:
    """What is owed for one missing picture, not sent yet."""
    finish_with(paid, 49, now)
    return Refund.objects.get()


def test_what_is_not_delivered_is_sent_back_with_our_number(
    due: Refund, account: StandIn, now: datetime
) -> None:
    assert (due.state, due.amount_cents, due.pictures) == ("due", 38, [50])

    assert settlement.run(now).sent == 1

    due.refresh_from_db()
    reference = due.payment.reference
    (asked,) = account.posts(REFUNDS)
    assert asked.key == f"hs-refund-{reference}-1"
    assert asked.values == {
        "payment_intent": due.payment.charge_reference,
        "amount": "38",
        "metadata[payment]": reference,
        "metadata[sequence]": "1",
    }
    assert (due.state, due.sent_at, due.provider_id) == ("sent", now, next(iter(account.refunds)))
    assert AuditEntry.objects.get(event="refund.sent").detail == {"sequence": 1, "cents": 38}


def test_a_second_pass_sends_nothing(due: Refund, account: StandIn, now: datetime) -> None:
    settlement.run(now)

    assert settlement.run(now + timedelta(hours=2)).sent == 0
    assert len(account.posts(REFUNDS)) == 1


def test_two_passes_at_one_moment_send_once(
    due: Refund, account: StandIn, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other pass has read the row before the first claimed it."""
    seen = list(settlement._due(now))
    settlement.run(now)
    monkeypatch.setattr(settlement, "_due", lambda now: seen)

    assert settlement.run(now).sent == 0

    assert (len(account.posts(REFUNDS)), account.refunded_cents()) == (1, 38)


@pytest.mark.parametrize("is_key_forgotten", [False, True])
def test_dying_between_sending_and_writing_it_down_sends_nothing_twice(
    due: Refund,
    account: StandIn,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
    is_key_forgotten: bool,
) -> None:
    with monkeypatch.context() as dying:
        dying.setattr(settlement, "_mark", lambda *args: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            settlement.run(now)
    due.refresh_from_db()
    assert (due.state, account.refunded_cents()) == ("due", 38)
    if is_key_forgotten:
        account.forget_keys()

    assert settlement.run(now + timedelta(days=2)).sent == 1

    due.refresh_from_db()
    assert (due.state, account.refunded_cents(), len(account.posts(REFUNDS))) == ("sent", 38, 1)


@pytest.mark.parametrize(
    "failure",
    [
        Failure(status=0),
        Failure(status=0, moment="after"),
        Failure(status=429, code="rate_limit"),
        Failure(status=500, moment="after"),
        Failure(status=503, moment="after"),
        Failure(status=401),
        Failure(status=402, code="balance_insufficient", moment="after"),
    ],
)
def test_a_provider_that_fails_is_asked_again_later(
    due: Refund, account: StandIn, now: datetime, failure: Failure
) -> None:
    account.failures.extend([failure] * 2)

    settlement.run(now)
    account.failures.clear()
    due.refresh_from_db()
    assert (due.state, due.attempts, due.not_before) == ("due", 1, now + timedelta(seconds=60))
    assert settlement.run(now + timedelta(seconds=59)).sent == 0

    assert settlement.run(now + timedelta(seconds=60)).sent == 1

    due.refresh_from_db()
    assert (due.state, account.refunded_cents(), len(account.refunds)) == ("sent", 38, 1)


def test_a_server_error_that_stripe_repeats_ends_when_it_forgets_the_key(
    due: Refund, account: StandIn, now: datetime
) -> None:
    account.failures.extend([Failure(status=500)])
    for hour in range(5):
        assert settlement.run(now + timedelta(hours=hour)).delayed == 1
    account.forget_keys()

    assert settlement.run(now + timedelta(hours=25)).sent == 1

    assert account.refunded_cents() == 38


@pytest.mark.parametrize(("attempts", "seconds"), [(0, 60), (1, 120), (3, 480), (6, 3600), (40, 3600)])
def test_the_pauses_grow_to_an_hour(
    due: Refund, account: StandIn, now: datetime, attempts: int, seconds: int
) -> None:
    Refund.objects.update(attempts=attempts)
    account.failures.extend([Failure(status=0)] * 4)

    settlement.run(now)

    assert Refund.objects.get().not_before == now + timedelta(seconds=seconds)


def test_what_stripe_refuses_for_good_is_failed_and_told_to_staff(
    due: Refund, account: StandIn, now: datetime
) -> None:
    account.refund_by_hand(due.payment.charge_reference, 1900)

    assert settlement.run(now).failed == 1

    due.refresh_from_db()
    assert (due.state, due.error_code) == ("failed", "charge_already_refunded")
    assert AuditEntry.objects.get(event="refund.failed").detail == {
        "sequence": 1,
        "code": "charge_already_refunded",
    }
    assert settlement.run(now + timedelta(days=1)).failed == 0


def test_a_refund_that_fails_in_the_answer_is_failed(due: Refund, account: StandIn, now: datetime) -> None:
    account.refunds_fail = True

    assert settlement.run(now).failed == 1

    due.refresh_from_db()
    assert (due.state, due.error_code) == ("failed", "lost_or_stolen_card")


def test_a_refund_that_fails_later_is_failed_and_staff_can_send_another(
    due: Refund, paid: Order, account: StandIn, now: datetime, deliver: Deliver
) -> None:
    settlement.run(now)
    due.refresh_from_db()
    assert deliver(account.fail_refund(due.provider_id)) == "noted"
    assert progress.view(Order.objects.get(), now).refunded_cents == 0
    assert payments.refund_missing(paid, now) == 0  # not by itself: it would only fail again

    assert payments.refund(paid, pictures=[50], actor="anna", now=now) == 38
    settlement.run(now)

    assert account.refunded_cents() == 38
    assert [each.state for each in Refund.objects.order_by("sequence")] == ["failed", "sent"]
    assert progress.view(Order.objects.get(), now).refunded_cents == 38


def test_a_failure_that_overtakes_our_own_record_is_kept(
    due: Refund, account: StandIn, now: datetime, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = settlement._mark

    def fail_first(*args: object) -> bool:
        deliver(account.fail_refund(next(iter(account.refunds))))
        return mark(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(settlement, "_mark", fail_first)

    settlement.run(now)

    due.refresh_from_db()
    assert (due.state, due.error_code) == ("failed", "expired_or_canceled_card")


def test_an_old_event_of_a_failed_refund_is_not_taken_for_somebody_elses(
    due: Refund, account: StandIn, now: datetime, deliver: Deliver
) -> None:
    settlement.run(now)
    due.refresh_from_db()
    old = account.charge_refunded(due.payment.charge_reference)
    deliver(account.fail_refund(due.provider_id))

    deliver(old)
    settlement.run(now + timedelta(hours=1))

    assert Refund.objects.count() == 1


def test_our_own_refunds_event_adds_nothing_even_before_we_know(
    due: Refund, account: StandIn, now: datetime, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = settlement._mark

    def event_first(*args: object) -> bool:
        deliver(account.charge_refunded(due.payment.charge_reference))
        return mark(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(settlement, "_mark", event_first)

    assert settlement.run(now).sent == 1
    settlement.run(now + timedelta(hours=1))

    assert Refund.objects.count() == 1


def test_a_part_that_was_given_back_by_hand_is_not_given_twice(
    paid: Order, account: StandIn, now: datetime
) -> None:
    finish_with(paid, 0, now)
    account.refund_by_hand(Payment.objects.get().charge_reference, 500)  # and no event of it came yet

    settlement.run(now)
    settlement.run(now + timedelta(hours=1))

    assert account.refunded_cents() == 1900
    rows = [(each.amount_cents, each.reason, each.state) for each in Refund.objects.order_by("sequence")]
    assert sorted(rows) == [
        (500, "outside", "sent"),
        (1400, "not delivered", "sent"),
        (1900, "not delivered", "failed"),
    ]


def test_while_a_dispute_is_open_nothing_is_sent(
    due: Refund, account: StandIn, now: datetime, deliver: Deliver
) -> None:
    intent = due.payment.charge_reference
    deliver(account.dispute(intent))
    assert settlement.run(now).sent == 0

    deliver(account.dispute(intent, "won"))

    assert settlement.run(now).sent == 1


def test_staff_refund_the_same_way(paid: Order, account: StandIn, now: datetime) -> None:
    finish_with(paid, 50, now)

    payments.refund(paid, pictures=[7, 9], actor="anna", now=now)
    payments.refund(paid, actor="anna", now=now)
    settlement.run(now)

    assert [asked.values["amount"] for asked in account.posts(REFUNDS)] == ["76", "1824"]
    assert account.refunded_cents() == 1900


def test_a_refund_is_looked_for_among_many(
    due: Refund, account: StandIn, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one page of Stripe's list lies between."""
    with monkeypatch.context() as dying:
        dying.setattr(settlement, "_mark", lambda *args: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            settlement.run(now)
    for _ in range(150):
        account.refund_by_hand(due.payment.charge_reference, 1)

    assert settlement.run(now + timedelta(days=2)).sent == 1

    assert account.refunded_cents() == 38 + 150


def test_a_test_payments_provider_is_never_asked(due: Refund, account: StandIn, now: datetime) -> None:
    Payment.objects.update(provider="test")

    settlement.run(now)

    assert not account.posts(REFUNDS)


def test_a_pass_over_a_dead_line_leaves_the_rest_to_the_next(
    paid: Order, account: StandIn, now: datetime
) -> None:
    finish_with(paid, 50, now)
    for index in range(1, 9):
        payments.refund(paid, pictures=[index], actor="anna", now=now)
    account.failures.extend([Failure(status=0)] * 2 * settlement.PATIENCE)

    assert settlement.run(now).delayed == settlement.PATIENCE
    assert settlement.run(now).sent == 8 - settlement.PATIENCE
    assert settlement.run(now + timedelta(minutes=1)).sent == settlement.PATIENCE

    assert account.refunded_cents() == -(-1900 * 8 // 50)


def test_a_charge_that_stripe_does_not_know_fails_and_holds_up_no_other(
    paid: Order, account: StandIn, now: datetime
) -> None:
    finish_with(paid, 48, now)
    account.intents.clear()

    assert settlement.run(now).failed == 1

    assert Refund.objects.get().error_code == "resource_missing"
