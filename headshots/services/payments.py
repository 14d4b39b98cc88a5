"""Money: what an order costs, the event that says it was paid, and what goes back by itself.

The embedded provider is a test: its page says TEST, and no card exists. Whatever the provider, an order
starts from a verified event and never from the browser coming back.
"""

import uuid
from datetime import datetime

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Sum

from headshots.exceptions import Refusal
from headshots.faults import faultpoint
from headshots.hints import Task, enqueue
from headshots.models import Order, Payment, PaymentEvent, Refund, Shot
from headshots.services import audit
from headshots.states import LIVE_STATES, OrderState, ShotState
from headshots.tiers import CURRENCY


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
    payment = Payment.objects.filter(order=order, state=Payment.State.OPEN).first()
    if payment is None or order.state not in (OrderState.ASSESSING, OrderState.AWAITING_PAYMENT):
        raise Refusal("not_payable")
    return payment


def confirm_test_payment(order: Order, now: datetime) -> None:
    """What the test checkout's button does: the provider's event, delivered to ourselves.

    Raises Refusal("not_payable").
    """
    payment = payable(order)
    record_event(provider="test", event_id=f"paid-{payment.reference}", reference=payment.reference, now=now)


def record_event(*, provider: str, event_id: str, reference: str, now: datetime) -> bool:
    """Take a verified "paid" event: once. False when the event, or the payment, was recorded before."""
    try:
        with transaction.atomic():
            PaymentEvent.objects.create(provider=provider, event_id=event_id, received_at=now)
            paid = Payment.objects.filter(
                provider=provider, reference=reference, state=Payment.State.OPEN, order__state__in=LIVE_STATES
            ).update(state=Payment.State.PAID, paid_at=now)
            if paid:
                order = Order.objects.get(payment__reference=reference)
                audit.record(
                    "payment.paid",
                    actor=provider,
                    reference=order.receipt_id,
                    now=now,
                    cents=order.price_cents,
                )
            faultpoint("payment.recorded")
    except IntegrityError:
        return False
    faultpoint("payment.committed")
    if paid:
        start_if_paid(order, now)
    return bool(paid)


@transaction.atomic
def start_if_paid(order: Order, now: datetime) -> None:
    """Start an order that is assessed and paid, whichever came last."""
    waiting = Order.objects.filter(
        pk=order.pk, state=OrderState.AWAITING_PAYMENT, payment__state=Payment.State.PAID
    )
    if waiting.move(OrderState.QUEUED):
        enqueue(Task.RENDER, copies=order.headshots)


@transaction.atomic
def refund_missing(order: Order, now: datetime) -> int:
    """Give back the price of the pictures that are not there; the cents given back now.

    Each missing picture is worth price / headshots; the cents are rounded in the customer's favour.
    """
    payment = Payment.objects.select_for_update().filter(order=order, state=Payment.State.PAID).first()
    if payment is None:
        return 0
    delivered = Shot.objects.filter(order=order, state=ShotState.DONE).count()
    owed = -(-payment.amount_cents * (order.headshots - delivered) // order.headshots)
    given = payment.refunds.aggregate(total=Sum("amount_cents"))["total"] or 0
    if owed <= given:
        return 0
    Refund.objects.create(
        payment=payment,
        sequence=payment.refunds.count() + 1,
        amount_cents=owed - given,
        reason="not delivered",
        created_at=now,
    )
    audit.record("payment.refunded", actor="service", reference=order.receipt_id, now=now, cents=owed - given)
    faultpoint("refund.recorded")
    return int(owed - given)


def is_refunded(order: Order) -> bool:
    """Whether any money of this order went back."""
    return Refund.objects.filter(payment__order=order).exists()
