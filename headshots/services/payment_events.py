"""What Stripe's verified events do to our rows: each once, in any order, and only if they say what we know.

An event that contradicts our own record changes nothing, is audited, and is answered like one that was
understood: delivering it again would contradict us again, and Stripe switches an endpoint off that refuses
for days, and with it the events of everybody else's payments. A dispute alone counts whatever sum it names.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias

from django.conf import settings

from headshots.hints import Task, enqueue
from headshots.models import Dispute, Payment, Refund
from headshots.payments import provider as provider_named
from headshots.payments import stripe_objects as objects
from headshots.payments.stripe_events import Event
from headshots.services import audit, checkouts, incarnation, payments
from headshots.services.payments import Outcome

log = logging.getLogger(__name__)

PROVIDER: Final = "stripe"
Effect: TypeAlias = Callable[[Any, datetime], Outcome]

_DISPUTE_ENDS: Final[Mapping[str, Dispute.State]] = {
    "won": Dispute.State.WON,
    "warning_closed": Dispute.State.WON,
    "lost": Dispute.State.LOST,
    "prevented": Dispute.State.LOST,  # by giving the money back
}


def receive(event: Event, now: datetime) -> Outcome:
    """Have a verified event its effect.

    Raises Refusal("restored") and ProviderAway: then nothing was changed, and Stripe is to deliver it again.
    """
    incarnation.require_current()
    if event.is_live != settings.STRIPE_IS_LIVE:
        log.error("an event of the other mode of Stripe arrived, for which no key is set")
        audit.record("payment.mismatch", actor=PROVIDER, reference=event.id[:60], now=now, what="mode")
        return Outcome.MISMATCH
    _remember_charge(event.about)
    effect = _EFFECTS[event.kind]
    return payments.once(
        provider=PROVIDER, event_id=event.id, effect=lambda: effect(event.about, now), now=now
    )


def _session(session: objects.Session, now: datetime) -> Outcome:
    return checkouts.apply(session.checkout(), PROVIDER, now)


def _session_failed(session: objects.Session, now: datetime) -> Outcome:
    """A delayed payment did not arrive; the customer may try again."""
    payment = _payment(reference=session.checkout().reference)
    if payment is None:
        return Outcome.FOREIGN
    return checkouts.note(payment, session.id, Payment.CheckoutState.FAILED)


def _charge_refunded(charge: objects.Charge, now: datetime) -> Outcome:
    """A hint to look: the sum does not say whose refunds they are, and an older event says an older sum."""
    payment = _payment(charge=charge.payment_intent, reference=charge.metadata.get(objects.METADATA_PAYMENT))
    if payment is None:
        return Outcome.FOREIGN
    if charge.currency != payment.currency:
        return payments.mismatch(payment, "currency", now)
    if charge.amount != payment.amount_cents or charge.amount_refunded > charge.amount:
        return payments.mismatch(payment, "amount", now)
    if payment.charge_reference not in ("", charge.payment_intent):
        return payments.mismatch(payment, "charge", now)
    return _look(payment, now)


def _refund_failed(refund: objects.RefundObject, now: datetime) -> Outcome:
    """One of ours is known by its number; one made by hand is a hint to look at its charge again."""
    reference = refund.metadata.get(objects.METADATA_PAYMENT)
    payment = _payment(charge=refund.payment_intent, reference=reference)
    if payment is None:
        return Outcome.FOREIGN
    sequence = refund.metadata.get(objects.METADATA_SEQUENCE)
    if sequence is None:
        is_known = refund.currency == payment.currency
        return _look(payment, now) if is_known else payments.mismatch(payment, "currency", now)
    row = payment.refunds.filter(sequence=int(sequence) if sequence.isdecimal() else 0).first()
    if row is None or row.provider_id not in ("", refund.id):
        return payments.mismatch(payment, "refund", now)
    if (refund.amount, refund.currency) != (row.amount_cents, payment.currency):
        return payments.mismatch(payment, "amount", now)
    return payments.fail_refund(row, refund.returned().failure or "failed", now, provider_id=refund.id)


def _look(payment: Payment, now: datetime) -> Outcome:
    """Have the provider asked what went back of a charge: events of it may come late and in any order."""
    Payment.objects.filter(pk=payment.pk).update(look_at=now)
    enqueue(Task.SETTLE)
    return Outcome.NOTED


def _disputed(dispute: objects.Dispute, now: datetime) -> Outcome:
    """Opened or closed, in whichever order we are told: an end is never taken back.

    It counts by its charge alone. The sum is the bank's, in a currency of its own and at its own rate.
    """
    payment = _payment(charge=dispute.payment_intent)
    if payment is None:
        return Outcome.FOREIGN
    state = _DISPUTE_ENDS.get(dispute.status, Dispute.State.OPEN)
    closed_at = None if state == Dispute.State.OPEN else now
    row, is_new = Dispute.objects.get_or_create(
        provider_id=dispute.id,
        defaults={
            "payment": payment,
            "state": state,
            "amount_cents": dispute.amount,
            "opened_at": now,
            "closed_at": closed_at,
        },
    )
    if not is_new:
        is_end = state != Dispute.State.OPEN
        still_open = Dispute.objects.filter(pk=row.pk, payment=payment, state=Dispute.State.OPEN)
        if not (is_end and still_open.update(state=state, closed_at=now)):
            return Outcome.NOTHING_NEW
    if state == Dispute.State.LOST:  # the bank has given the money back already
        for due in payment.refunds.filter(state=Refund.State.DUE):
            payments.fail_refund(due, "dispute_lost", now)
    enqueue(Task.SETTLE)
    if is_new and (difference := _difference(payment, dispute)):
        payments.mismatch(payment, difference, now)
    audit.record(
        "payment.disputed",
        actor=PROVIDER,
        reference=payment.order.receipt_id,
        now=now,
        state=str(state),
        amount=dispute.amount,
        currency=dispute.currency,
    )
    return Outcome.NOTED


def _difference(payment: Payment, dispute: objects.Dispute) -> str:
    if dispute.currency != payment.currency:
        return "dispute_currency"
    return "dispute_amount" if dispute.amount > payment.amount_cents else ""


_EFFECTS: Final[Mapping[str, Effect]] = {
    "checkout.session.completed": _session,
    "checkout.session.async_payment_succeeded": _session,
    "checkout.session.async_payment_failed": _session_failed,
    "checkout.session.expired": _session,
    "charge.refunded": _charge_refunded,
    "refund.failed": _refund_failed,
    "charge.dispute.created": _disputed,
    "charge.dispute.closed": _disputed,
}


def _payment(*, charge: str = "", reference: str | None = None) -> Payment | None:
    """By its charge, or by the reference that we gave it."""
    ours = Payment.objects.filter(provider=PROVIDER)
    found = ours.filter(charge_reference=charge).first() if charge else None
    return found or (ours.filter(reference=reference).first() if reference else None)


def _remember_charge(about: object) -> None:
    """A dispute names its charge alone: if that overtook the event of the payment, Stripe says whose it is.

    Outside of the transaction, since it asks over the network.
    """
    if not isinstance(about, objects.Dispute) or not about.payment_intent:
        return
    if _payment(charge=about.payment_intent) is None:
        reference = provider_named(PROVIDER).reference_of(about.payment_intent)
        Payment.objects.filter(provider=PROVIDER, reference=reference, charge_reference="").update(
            charge_reference=about.payment_intent
        )
