"""Money: what an order costs, the event that says it was paid, and what goes back by itself.

An order starts from a verified event and never from the browser coming back. Refunds are rows first; what
sends them to the provider is `services.settlement`.
"""

import logging
import uuid
from collections.abc import Callable, Iterable
from datetime import datetime
from enum import StrEnum
from typing import Final

from django.conf import settings
from django.db import transaction

from headshots.exceptions import Refusal
from headshots.faults import faultpoint
from headshots.hints import Task, enqueue
from headshots.models import Dispute, Mail, Order, Payment, PaymentEvent, Refund, Shot
from headshots.payments import provider as provider_named
from headshots.payments.types import Return
from headshots.services import audit, mails, queue_clock
from headshots.states import OrderState, ShotState
from headshots.tiers import CURRENCY

log = logging.getLogger(__name__)

PAYABLE_STATES: Final = (OrderState.ASSESSING, OrderState.AWAITING_PAYMENT)
DECIDED_STATES: Final = (OrderState.REFUSED, OrderState.PURGING, OrderState.PURGED)
FREEZING: Final = (Dispute.State.OPEN, Dispute.State.LOST)


class Outcome(StrEnum):
    """What became of something a provider said."""

    TAKEN = "taken"  # the payment is paid now, and was not before
    NOTED = "noted"
    NOTHING_NEW = "nothing new"
    REPEATED = "repeated"  # this very event had its effect before
    FOREIGN = "foreign"  # about no payment of ours
    MISMATCH = "mismatch"  # about one of ours, and not as we know it: nothing was changed


def open_payment(order: Order, now: datetime) -> Payment:
    """The one payment of a premium order, in the caller's transaction."""
    return Payment.objects.create(
        order=order,
        provider=settings.PAYMENTS,
        reference=f"{settings.PAYMENTS}_{uuid.uuid4().hex}",
        amount_cents=order.price_cents,
        currency=CURRENCY,
        created_at=now,
    )


def payable(order: Order) -> Payment:
    """The open payment of an order. Raises Refusal("not_payable") when there is none, or it was paid."""
    payment = Payment.objects.filter(
        order=order, state=Payment.State.OPEN, provider=settings.PAYMENTS
    ).first()
    if payment is None or order.state not in PAYABLE_STATES:
        raise Refusal("not_payable")
    return payment


def payment_of(order: Order) -> Payment:
    """The payment of an order, whatever its state. Raises Refusal("not_payable") when it costs nothing."""
    payment = Payment.objects.filter(order=order).first()
    if payment is None:
        raise Refusal("not_payable")
    return payment


# --- what a provider says ---------------------------------------------------------------------------------


def once(*, provider: str, event_id: str, effect: Callable[[], Outcome], now: datetime) -> Outcome:
    """Record an event and have its effect in one transaction; REPEATED, and no effect, the second time.

    An event that concerns no payment of ours leaves no row: accounts may be shared.
    """
    with transaction.atomic():
        _, is_new = PaymentEvent.objects.get_or_create(
            provider=provider, event_id=event_id, defaults={"received_at": now}
        )
        if not is_new:
            return Outcome.REPEATED
        outcome = effect()
        if outcome is Outcome.FOREIGN:
            transaction.set_rollback(True)
        faultpoint("payment.recorded")
    faultpoint("payment.committed")
    return outcome


def take(payment: Payment, charge_reference: str, now: datetime) -> Outcome:
    """Record that a payment was made, and start its order, in the caller's transaction.

    Money for an order that can no longer be made goes back at once. The order's row is locked: it is either
    refused or fenced after this, and sees the payment, or before, and this sees it.
    """
    order = Order.objects.select_for_update().get(pk=payment.order_id)
    taken = Payment.objects.filter(pk=payment.pk, state=Payment.State.OPEN).update(
        state=Payment.State.PAID,
        paid_at=now,
        charge_reference=charge_reference,
        checkout_state=Payment.CheckoutState.OPEN,
    )
    if not taken:
        return Outcome.NOTHING_NEW
    mails.queue(order.pk, Mail.Kind.PLACED, now)  # nobody was written to before
    if order.state in PAYABLE_STATES:
        start_if_paid(order, now)
    # An old copy of the database does not know what was delivered after it was made: staff decide there.
    elif order.purge_reason != "restored":
        refund_missing(order, now)
    audit.record(
        "payment.paid",
        actor=payment.provider,
        reference=order.receipt_id,
        now=now,
        cents=payment.amount_cents,
    )
    return Outcome.TAKEN


def mismatch(payment: Payment, what: str, now: datetime) -> Outcome:
    """Put on record that a provider told something else than we know; that alone changes nothing."""
    log.error("payment %s: the provider's %s is not ours", payment.pk, what)
    audit.record(
        "payment.mismatch",
        actor=payment.provider,
        reference=payment.order.receipt_id,
        now=now,
        what=what,
    )
    return Outcome.MISMATCH


@transaction.atomic
def start_if_paid(order: Order, now: datetime) -> None:
    """Start an order that is assessed and paid, whichever came last."""
    waiting = Order.objects.filter(
        pk=order.pk, state=OrderState.AWAITING_PAYMENT, payment__state=Payment.State.PAID
    )
    if waiting.move(OrderState.QUEUED):
        queue_clock.enter(order, now)
        enqueue(Task.RENDER, copies=order.headshots)


def is_starting(order: Order) -> bool:
    """Whether an order is paid and waits for nothing but its start."""
    is_waiting = order.state == OrderState.AWAITING_PAYMENT
    return is_waiting and Payment.objects.filter(order=order, state=Payment.State.PAID).exists()


# --- what goes back ---------------------------------------------------------------------------------------


@transaction.atomic
def refund_missing(order: Order, now: datetime) -> int:
    """Give back the price of the pictures that are not there; the cents given back now."""
    payment = _paid(order)
    if payment is None:
        return 0
    _, missing = _paid_for(order)
    # One that failed counts as given: it would only fail again, and staff were told.
    return _give_back(
        payment,
        missing,
        Refund.Reason.NOT_DELIVERED,
        before=list(payment.refunds.all()),
        actor="service",
        now=now,
    )


def missing_cents(order: Order) -> int:
    """What `refund_missing` would give back now, in cents; a purge calls it."""
    payment = Payment.objects.filter(order=order, state=Payment.State.PAID).first()
    return _owed_cents(payment, _paid_for(order)[1], list(payment.refunds.all())) if payment else 0


@transaction.atomic
def refund(order: Order, *, pictures: Iterable[int] | None = None, actor: str, now: datetime) -> int:
    """Staff: give back the price of some pictures, by their indexes, or of all; the cents given back now.

    What went back for the same pictures before counts. Works in every state of the order, also when it is
    deleted. Raises Refusal: headshot_not_found for an index it does not have, not_refundable when it was not
    paid or nothing of what is asked for is left.
    """
    every = set().union(*_paid_for(order))
    sold_as = _sold_as(order)
    chosen = every if pictures is None else {sold_as.get(index, index) for index in pictures}
    if not chosen <= every:
        raise Refusal("headshot_not_found")
    payment = _paid(order)
    if payment is None:
        raise Refusal("not_refundable")
    before = list(payment.refunds.exclude(state=Refund.State.FAILED))
    cents = _give_back(payment, chosen, Refund.Reason.STAFF, before=before, actor=actor, now=now)
    if not cents:
        raise Refusal("not_refundable")
    return cents


@transaction.atomic
def record_outside_refunds(payment: Payment, total_cents: int, now: datetime) -> int:
    """Take note that `total_cents` in all went back without us; the cents of it that are new to us.

    Those of before that the provider no longer counts did not arrive: what is owed goes back after all.
    """
    locked = Payment.objects.select_for_update().get(pk=payment.pk)
    known = locked.refunds.filter(reason=Refund.Reason.OUTSIDE).exclude(state=Refund.State.FAILED)
    excess_cents = sum(each.amount_cents for each in known) - total_cents
    has_failed = excess_cents > 0
    # Only the sum is told: rather one of just that amount than the newest.
    for row in sorted(known, key=lambda each: (each.amount_cents != excess_cents, -each.sequence)):
        if excess_cents > 0:
            fail_refund(row, "failed", now)
            excess_cents -= row.amount_cents
    if excess_cents < 0:
        _write(locked, -excess_cents, Refund.Reason.OUTSIDE, (), now)
        _audit_refund(locked, -excess_cents, locked.provider, now)
    if has_failed and _is_decided(locked.order):
        refund_missing(locked.order, now)
    return max(0, -excess_cents)


def _is_decided(order: Order) -> bool:
    """Whether no more pictures come of an order, and this database knows which did."""
    is_over = order.finished_at is not None or order.state in DECIDED_STATES
    return is_over and order.purge_reason != "restored"


def fail_refund(row: Refund, code: str, now: datetime, *, provider_id: str = "") -> Outcome:
    """Record that a refund did not arrive, and will not: staff must find another way."""
    failed = Refund.objects.filter(pk=row.pk).exclude(state=Refund.State.FAILED)
    if not failed.update(
        state=Refund.State.FAILED, error_code=code[:60], provider_id=provider_id or row.provider_id
    ):
        return Outcome.NOTHING_NEW
    log.error("refund %s failed: staff must look at it", row.pk)
    audit.record(
        "refund.failed",
        actor=row.payment.provider,
        reference=row.payment.order.receipt_id,
        now=now,
        sequence=row.sequence,
        code=code,
    )
    return Outcome.NOTED


@transaction.atomic
def refuse_refund(row: Refund, code: str, left_cents: int, now: datetime) -> None:
    """The provider does not take a refund: of its charge `left_cents` have not gone back yet.

    Somebody gave a part back without us, and the refund was too large: a smaller one takes its place.
    """
    payment = Payment.objects.select_for_update().get(pk=row.payment_id)
    if fail_refund(row, code, now) is Outcome.NOTED and 0 < left_cents < row.amount_cents:
        _write(payment, left_cents, Refund.Reason(row.reason), row.pictures, now)
        _audit_refund(payment, left_cents, "service", now)


def _paid_for(order: Order) -> tuple[set[int], set[int]]:
    """The pictures that share the price, by index: those delivered, and those missing to the promised number.

    A spare that was delivered stands in for a shot that was not; the first of these are the missing ones.
    """
    delivered = set(_sold_as(order).values())
    others = sorted(set(range(1, order.headshots + 1)) - delivered)
    return delivered, set(others[: order.headshots - len(delivered)])


def _sold_as(order: Order) -> dict[int, int]:
    """The delivered pictures by their indexes: under which index each was paid for.

    A redo that was chosen is, to the money, the picture whose place it took.
    """
    sold: dict[int, int] = {}  # by row
    delivered: dict[int, int] = {}
    rows = Shot.objects.filter(order=order).order_by("index")  # a redo comes after what it replaces
    for pk, index, state, replaced in rows.values_list("pk", "index", "state", "replaces"):
        sold[pk] = sold[replaced] if replaced else index
        if state == ShotState.DONE:
            delivered[index] = sold[pk]
    return delivered


def _paid(order: Order) -> Payment | None:
    return Payment.objects.select_for_update().filter(order=order, state=Payment.State.PAID).first()


def _owed_cents(payment: Payment, pictures: set[int], before: list[Refund]) -> int:
    """What is still owed for `pictures` and those of the refunds `before`.

    Each picture is worth price / headshots; the cents of all together are rounded in the customer's favour.
    """
    returned = pictures.union(*(each.pictures for each in before))
    owed = -(-payment.amount_cents * len(returned) // payment.order.headshots)
    given = sum(each.amount_cents for each in before if each.reason != Refund.Reason.OUTSIDE)
    alive = payment.refunds.exclude(state=Refund.State.FAILED).values_list("amount_cents", flat=True)
    return max(0, min(owed - given, payment.amount_cents - sum(alive)))


def _give_back(
    payment: Payment,
    pictures: set[int],
    reason: Refund.Reason,
    *,
    before: list[Refund],
    actor: str,
    now: datetime,
) -> int:
    """One row for what is still owed for `pictures` and those of the refunds `before`."""
    cents = _owed_cents(payment, pictures, before)
    if not cents:
        return 0
    _write(payment, cents, reason, pictures, now)
    _audit_refund(payment, cents, actor, now)
    faultpoint("refund.recorded")
    return cents


def _write(
    payment: Payment, cents: int, reason: Refund.Reason, pictures: Iterable[int], now: datetime
) -> None:
    sequence = payment.refunds.count() + 1
    row = Refund(
        payment=payment,
        sequence=sequence,
        amount_cents=cents,
        reason=reason,
        pictures=sorted(pictures),
        created_at=now,
        not_before=now,
    )
    if reason == Refund.Reason.OUTSIDE:
        row.state, row.sent_at = Refund.State.SENT, now
    elif payment.provider == settings.PAYMENTS and provider_named(payment.provider).is_immediate:
        row.provider_id = provider_named(payment.provider).send_back(return_of(row)).id
        row.state, row.sent_at = Refund.State.SENT, now
    else:
        enqueue(Task.SETTLE)
    row.save(force_insert=True)
    mails.queue(payment.order_id, Mail.Kind.REFUNDED, now)


def return_of(row: Refund) -> Return:
    """A refund as its provider is asked for it."""
    return Return(
        reference=row.payment.reference,
        sequence=row.sequence,
        charge_reference=row.payment.charge_reference,
        amount_cents=row.amount_cents,
    )


def _audit_refund(payment: Payment, cents: int, actor: str, now: datetime) -> None:
    reference = payment.order.receipt_id
    audit.record("payment.refunded", actor=actor, reference=reference, now=now, cents=cents)


def is_refunded(order: Order) -> bool:
    """Whether any money of this order went back, or is on its way."""
    return Refund.objects.filter(payment__order=order).exists()


# --- disputes ---------------------------------------------------------------------------------------------


def is_frozen(order: Order) -> bool:
    """Whether the customer's bank wants the money of this order back, or has it."""
    return Dispute.objects.filter(payment__order=order, state__in=FREEZING).exists()


def require_undisputed(order: Order) -> None:
    """Raises Refusal("payment_disputed") while `is_frozen`; the order can still be deleted."""
    if is_frozen(order):
        raise Refusal("payment_disputed")
