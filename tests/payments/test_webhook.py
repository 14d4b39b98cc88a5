"""Stripe's events: only Stripe's, each once, in any order, and only if they say what our own record says."""

import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.test import Client
from pytest_django import Settings

from headshots.models import AuditEntry, Dispute, Order, Payment, PaymentEvent, Refund
from headshots.payments.stripe_events import KINDS
from headshots.services import fencing, incarnation, payment_events, payments
from headshots.states import OrderState
from tests.payments.conftest import post_event
from tests.payments.stand_in import Json, StandIn, signed

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
Deliver = Callable[..., str]


def everything() -> list[Any]:
    """All rows that money is about; what a refused event must leave as it is."""
    rows = (Payment, PaymentEvent, Refund, Dispute, AuditEntry, Order)
    return [list(model.objects.order_by("pk").values()) for model in rows]


def test_the_event_of_the_payment_starts_the_order(
    session_id: str, account: StandIn, deliver: Deliver
) -> None:
    assert deliver(account.pay(session_id)) == "taken"

    payment = Payment.objects.get()
    assert (payment.state, payment.charge_reference) == ("paid", next(iter(account.intents)))
    assert Order.objects.get().state == OrderState.QUEUED


def test_paid_and_started_are_written_together(
    session_id: str, account: StandIn, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody sees an order that is paid and waits for its payment, even if the process dies after it."""

    def die(name: str) -> None:
        if name == "payment.committed":
            raise SystemExit

    monkeypatch.setattr(payments, "faultpoint", die)
    with pytest.raises(SystemExit):
        deliver(account.pay(session_id))

    assert (Payment.objects.get().state, Order.objects.get().state) == ("paid", OrderState.QUEUED)


def test_an_event_that_comes_again_has_no_second_effect(
    session_id: str, account: StandIn, deliver: Deliver
) -> None:
    event = account.pay(session_id)
    deliver(event)
    before = everything()

    assert [deliver(event) for _ in range(3)] == ["repeated"] * 3

    assert everything() == before


def test_a_second_event_of_the_same_payment_has_no_effect(
    session_id: str, account: StandIn, deliver: Deliver
) -> None:
    deliver(account.pay(session_id))

    again = account.event("checkout.session.completed", account.sessions[session_id])

    assert deliver(again) == "nothing_new"
    assert AuditEntry.objects.filter(event="payment.paid").count() == 1


# --- forged, stale, altered -------------------------------------------------------------------------------


def test_only_what_stripe_signed_now_is_believed(session_id: str, account: StandIn, client: Client) -> None:
    body, signature = signed(account.pay(session_id))
    now = int(time.time())
    wrong = {
        "unsigned": (body, ""),
        "garbage": (body, "v1=zz"),
        "not ascii": (body, f"t={now},v1=\u00e9"),
        "another secret": signed(json.loads(body), secret="whsec_other"),
        "no secret": signed(json.loads(body), secret=""),
        "stale": signed(json.loads(body), at=now - 301),
        "altered": (body.replace(b"1900", b"0001"), signature),
        "rewritten": (json.dumps(json.loads(body)).encode(), signature),
        "not text": (b"\xff\xfe", signature),
        "other scheme": (body, signature.replace("v1=", "v0=")),
    }
    before = everything()

    answers = {name: post_event(client, *each).status_code for name, each in wrong.items()}

    assert answers == dict.fromkeys(wrong, 400)
    assert everything() == before
    assert post_event(client, body, signature).status_code == 200  # the same, unharmed


def test_an_event_of_almost_five_minutes_ago_is_taken(
    session_id: str, account: StandIn, deliver: Deliver
) -> None:
    assert deliver(account.pay(session_id), at=int(time.time()) - 290) == "taken"


@pytest.mark.parametrize(
    "broken",
    [
        {"data": {"object": {"id": "cs_1"}}},
        {"data": None},
        {"object": "v2.core.event"},
        {"id": ""},
    ],
)
def test_a_signed_event_that_cannot_be_read_is_refused(
    session_id: str, account: StandIn, deliver: Deliver, broken: Json
) -> None:
    event = account.pay(session_id) | broken
    before = everything()

    assert deliver(event) == "400 bad_content"

    assert everything() == before


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"amount_total": 1}, "amount"),
        ({"amount_total": 190000}, "amount"),
        ({"currency": "jpy"}, "currency"),
        ({"livemode": True}, "mode"),
        ({"id": "cs_another"}, "checkout"),
        ({"payment_intent": None}, "charge_reference"),
    ],
)
def test_an_event_that_contradicts_our_record_changes_nothing_and_is_audited(
    session_id: str, account: StandIn, deliver: Deliver, changes: Json, what: str
) -> None:
    account.pay(session_id)
    event = account.event("checkout.session.completed", account.sessions[session_id] | changes)

    assert deliver(event) == "mismatch"

    assert Payment.objects.get().state == "open"
    assert Order.objects.get().state == OrderState.AWAITING_PAYMENT
    entry = AuditEntry.objects.get(event="payment.mismatch")
    assert (entry.actor, entry.detail) == ("stripe", {"what": what})


@pytest.mark.parametrize(
    "changes",
    [
        {"client_reference_id": "stripe_unknown", "metadata": {"payment": "stripe_unknown"}},
        {"client_reference_id": None},
        {"metadata": {}},
    ],
)
def test_a_payment_that_is_none_of_ours_leaves_no_row(
    session_id: str, account: StandIn, deliver: Deliver, changes: Json
) -> None:
    """Accounts may be shared. Both places of our reference must name the payment."""
    account.pay(session_id)
    before = everything()

    assert deliver(account.event("checkout.session.completed", account.sessions[session_id] | changes)) == (
        "foreign"
    )

    assert everything() == before


def test_kinds_that_do_not_concern_us_are_answered_and_forgotten(
    premium: Order, account: StandIn, deliver: Deliver
) -> None:
    assert deliver(account.event("customer.created", {"id": "cus_1", "object": "customer"})) == "not_ours"

    assert not PaymentEvent.objects.exists()


def test_an_event_of_the_other_mode_changes_nothing(
    session_id: str, account: StandIn, deliver: Deliver
) -> None:
    account.pay(session_id)

    event = account.event("checkout.session.completed", account.sessions[session_id], livemode=True)

    assert deliver(event) == "mismatch"
    assert Payment.objects.get().state == "open"


def test_every_kind_has_an_effect() -> None:
    assert payment_events._EFFECTS.keys() == KINDS.keys()


def test_there_is_no_webhook_in_test_mode(
    session_id: str, account: StandIn, client: Client, settings: Settings
) -> None:
    settings.PAYMENTS = "test"

    assert post_event(client, *signed(account.pay(session_id))).status_code == 404


def test_a_body_that_no_event_has_is_not_read(premium: Order, client: Client) -> None:
    assert post_event(client, b" " * (512 * 1024 + 1), "t=1,v1=0").status_code == 413


def test_a_look_at_the_webhook_is_not_an_event(premium: Order, client: Client) -> None:
    assert client.get("/webhooks/stripe").status_code == 405


def test_a_service_that_was_restored_asks_for_the_event_again(
    session_id: str, account: StandIn, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = account.pay(session_id)
    monkeypatch.setattr(incarnation, "is_restored", lambda: True)
    assert deliver(event) == "503 restored"
    assert Payment.objects.get().state == "open"


# --- other ways than straight on --------------------------------------------------------------------------


def test_a_delayed_payment_starts_the_order_when_the_bank_says_yes(
    session_id: str, account: StandIn, deliver: Deliver
) -> None:
    assert deliver(account.begin_delayed(session_id)) == "noted"
    assert (Payment.objects.get().state, Payment.objects.get().checkout_state) == ("open", "processing")

    assert deliver(account.succeed_delayed(session_id)) == "taken"

    assert Order.objects.get().state == OrderState.QUEUED


def test_a_delayed_payment_that_failed_stays_failed_whatever_comes_late(
    session_id: str, account: StandIn, deliver: Deliver
) -> None:
    begun = account.begin_delayed(session_id)
    assert deliver(account.fail_delayed(session_id)) == "noted"

    assert deliver(begun) == "nothing_new"

    assert Payment.objects.get().checkout_state == "failed"


def test_a_page_that_expired_after_it_was_paid_is_paid(
    session_id: str, account: StandIn, deliver: Deliver
) -> None:
    deliver(account.pay(session_id))

    late = account.sessions[session_id] | {"status": "expired", "payment_status": "unpaid"}

    assert deliver(account.event("checkout.session.expired", late)) == "nothing_new"
    assert Payment.objects.get().state == "paid"


def test_a_database_put_back_from_before_the_page_takes_its_payment(
    session_id: str, account: StandIn, deliver: Deliver
) -> None:
    Payment.objects.update(checkout_id="", attempt=0)

    assert deliver(account.pay(session_id)) == "taken"


@pytest.mark.parametrize("reason", ["customer", "expired", "staff"])
def test_money_that_comes_after_the_end_goes_back_whole(
    premium: Order, session_id: str, account: StandIn, now: datetime, deliver: Deliver, reason: str
) -> None:
    event = account.pay(session_id)
    fencing.begin(premium, reason=reason, now=now)

    assert deliver(event) == "taken"

    refund = Refund.objects.get()
    assert (refund.amount_cents, refund.state) == (1900, "due")
    assert Order.objects.get().state == OrderState.PURGING
